//! An event as a line.

use capstan_sdk::contract::events::Event;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Names are those of event.capnp, as the command line prints them.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Line<'a> {
    cursor: u64,
    time_unix_ns: i64,
    namespace: &'a str,
    topic: &'a str,
    fields: Map<String, Value>,
}

/// One line of JSON, with its end.
pub(crate) fn write(event: &Event) -> Vec<u8> {
    let fields = event.event.fields.iter();
    let line = Line {
        cursor: event.cursor,
        time_unix_ns: event.time_unix_ns,
        namespace: event.event.namespace.as_ref().map_or("", |namespace| namespace.as_str()),
        topic: &event.event.topic,
        fields: fields.map(|(key, value)| (key.clone(), value.as_str().into())).collect(),
    };
    let mut bytes = serde_json::to_vec(&line).expect("texts and numbers are JSON");
    bytes.push(b'\n');
    bytes
}

/// The cursor of a line; `None` if it is no line of ours.
pub(crate) fn cursor(line: &[u8]) -> Option<u64> {
    #[derive(Deserialize)]
    struct Start {
        cursor: u64,
    }
    serde_json::from_slice(line).ok().map(|Start { cursor }| cursor)
}

#[cfg(test)]
mod tests {
    use super::*;
    use capstan_sdk::Namespace;
    use capstan_sdk::contract::events::NewEvent;

    #[test]
    fn a_line_is_json_with_the_schemas_names() {
        let event = NewEvent::new(&Namespace::parse("default").unwrap(), "/tasks/exit")
            .with("id", "web\n\"1\"")
            .with("exitStatus", 137);
        let bytes = write(&Event { cursor: 42, time_unix_ns: 7, event });
        let text = std::str::from_utf8(&bytes).unwrap();
        assert_eq!(
            text,
            concat!(
                r#"{"cursor":42,"timeUnixNs":7,"namespace":"default","topic":"/tasks/exit","#,
                r#""fields":{"exitStatus":"137","id":"web\n\"1\""}}"#,
                "\n"
            )
        );
        assert_eq!(cursor(&bytes), Some(42));
        assert_eq!(cursor(b"{\"cursor\":-1}"), None);
        assert_eq!(cursor(b"{\"cursor\":42,\"timeUn"), None);
    }
}
