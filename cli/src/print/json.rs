//! JSON of any Cap'n Proto value, by reflection: field names are the schema's.
//!
//! Lists of labels become objects. Data that is JSON itself (specs, manifests) is embedded as it is;
//! other data is a list of numbers. A struct that is not there is null.

use std::io::Write as _;

use capnp::dynamic_value::Reader;
use capnp::{dynamic_list, dynamic_struct};
use serde_json::{Map, Value};

use crate::exit::Outcome;

/// Prints one JSON value, indented.
pub(crate) fn json<'a>(reader: impl Into<Reader<'a>>) -> Outcome {
    print(&value(reader.into())?)
}

/// Prints a JSON value, indented.
pub(crate) fn print(value: &Value) -> Outcome {
    Ok(writeln!(std::io::stdout(), "{value:#}")?)
}

/// Prints one JSON value in one line, for streams.
pub(crate) fn json_line<'a>(reader: impl Into<Reader<'a>>) -> Outcome {
    Ok(writeln!(std::io::stdout(), "{}", value(reader.into())?)?)
}

/// Any value as JSON.
pub(super) fn value(reader: Reader<'_>) -> capnp::Result<Value> {
    Ok(match reader {
        Reader::Void => Value::Null,
        Reader::Bool(value) => value.into(),
        Reader::Int8(value) => value.into(),
        Reader::Int16(value) => value.into(),
        Reader::Int32(value) => value.into(),
        Reader::Int64(value) => value.into(),
        Reader::UInt8(value) => value.into(),
        Reader::UInt16(value) => value.into(),
        Reader::UInt32(value) => value.into(),
        Reader::UInt64(value) => value.into(),
        Reader::Float32(value) => f64::from(value).into(),
        Reader::Float64(value) => value.into(),
        Reader::Enum(value) => match value.get_enumerant()? {
            Some(enumerant) => enumerant.get_proto().get_name()?.to_str()?.into(),
            None => value.get_value().into(),
        },
        Reader::Text(value) => value.to_str()?.into(),
        Reader::Data(value) => serde_json::from_slice(value).unwrap_or_else(|_| value.into()),
        Reader::Struct(value) => object(value)?,
        Reader::List(value) => list(value)?,
        Reader::AnyPointer(_) | Reader::Capability(_) => Value::Null,
    })
}

fn object(reader: dynamic_struct::Reader<'_>) -> capnp::Result<Value> {
    let schema = reader.get_schema();
    let mut map = Map::new();
    let active = reader.which()?;
    let fields = schema.get_non_union_fields()?.iter().chain(active);
    for field in fields {
        let proto = field.get_proto();
        let name = proto.get_name()?.to_str()?;
        // The error of a call has its own way to the user.
        if name == "error" {
            continue;
        }
        let is_struct =
            matches!(field.get_type().which(), capnp::introspect::TypeVariant::Struct(_));
        let is_group = matches!(proto.which(), Ok(capnp::schema_capnp::field::Group(_)));
        let item = match is_struct && !is_group && !reader.has(field)? {
            true => Value::Null,
            false => value(reader.get(field)?)?,
        };
        map.insert(name.to_owned(), item);
    }
    Ok(Value::Object(map))
}

fn list(reader: dynamic_list::Reader<'_>) -> capnp::Result<Value> {
    let items: Vec<Value> = reader.iter().map(|item| value(item?)).collect::<capnp::Result<_>>()?;
    let is_labels = match reader.element_type().which() {
        capnp::introspect::TypeVariant::Struct(schema) => {
            let schema = capnp::schema::StructSchema::from(schema);
            schema.get_proto().get_display_name()?.to_str()?.ends_with(":Label")
        }
        _ => false,
    };
    if !is_labels {
        return Ok(Value::Array(items));
    }
    let text = |value: &Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
    let pairs = items.iter().map(|item| (text(item, "key"), text(item, "value").into()));
    Ok(Value::Object(pairs.collect()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use capstan_client::schema::task_capnp::{Status, task_info};
    use capstan_client::schema::{container_capnp, event_capnp};

    #[test]
    fn names_are_the_schemas() {
        let mut message = capnp::message::Builder::new_default();
        let mut task = message.init_root::<task_info::Builder<'_>>();
        task.set_id("web");
        task.set_status(Status::Stopped);
        task.reborrow().init_exit().set_status(137);
        let value = value(task.into_reader().into()).unwrap();
        assert_eq!(value["id"], "web");
        assert_eq!(value["status"], "stopped");
        assert_eq!(value["exit"]["status"], 137);
        assert_eq!(value["startedAtUnixNs"], 0);
    }

    #[test]
    fn a_struct_that_is_not_there_is_null() {
        let mut message = capnp::message::Builder::new_default();
        let task = message.init_root::<task_info::Builder<'_>>();
        assert_eq!(value(task.into_reader().into()).unwrap()["exit"], Value::Null);
    }

    #[test]
    fn labels_are_objects_and_json_is_embedded() {
        let mut message = capnp::message::Builder::new_default();
        let mut event = message.init_root::<event_capnp::event::Builder<'_>>();
        let mut field = event.reborrow().init_fields(1).get(0);
        field.set_key("id");
        field.set_value("web");
        assert_eq!(value(event.into_reader().into()).unwrap()["fields"]["id"], "web");

        let mut message = capnp::message::Builder::new_default();
        let mut container = message.init_root::<container_capnp::container::Builder<'_>>();
        container.set_spec(b"{\"ociVersion\":\"1.0.2\"}");
        let value = value(container.into_reader().into()).unwrap();
        assert_eq!(value["spec"]["ociVersion"], "1.0.2");
    }
}
