//! The record of a container's restarts, in and out of bytes.

use capstan_schema::record_capnp::restart_record;
use capstan_sdk::contract::metadata::Key;
use capstan_sdk::contract::runtime::{Stdio, TaskKey};
use capstan_sdk::record::{Record, encode};
use capstan_sdk::rpc::tasks::{read_stdio, write_stdio};
use capstan_sdk::{ContainerId, Error, Result};

pub(crate) const BUCKET: &str = "restarts";

/// What is to become of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wish {
    /// Where the streams go, each time.
    pub(crate) stdio: Stdio,
    /// A user started it, and nobody stopped it since.
    pub(crate) is_wanted: bool,
    pub(crate) restarts: u32,
    /// The last that a user sent to init; 0 = none.
    pub(crate) signal: u32,
    pub(crate) signaled_at_unix_ns: i64,
}

impl Wish {
    pub(crate) fn new(stdio: Stdio) -> Self {
        Self { stdio, is_wanted: false, restarts: 0, signal: 0, signaled_at_unix_ns: 0 }
    }
}

pub(crate) fn key(key: &TaskKey) -> Key {
    Key::new(BUCKET, &key.namespace, key.id.as_str())
}

pub(crate) fn write(wish: &Wish) -> Vec<u8> {
    encode::<restart_record::Owned>(|mut out| {
        write_stdio(&wish.stdio, out.reborrow().init_stdio());
        out.set_wanted(wish.is_wanted);
        out.set_restarts(wish.restarts);
        out.set_signal(wish.signal);
        out.set_signaled_at_unix_ns(wish.signaled_at_unix_ns);
    })
}

pub(crate) fn read(key: Key, bytes: &[u8]) -> Result<(TaskKey, Wish)> {
    let record = Record::decode(bytes)?;
    let record = record.get::<restart_record::Owned>()?;
    let namespace = key.namespace.ok_or_else(|| Error::corrupt("a restart without a namespace"))?;
    let wish = Wish {
        stdio: read_stdio(record.get_stdio()?)?,
        is_wanted: record.get_wanted(),
        restarts: record.get_restarts(),
        signal: record.get_signal(),
        signaled_at_unix_ns: record.get_signaled_at_unix_ns(),
    };
    Ok((TaskKey { namespace, id: ContainerId::parse(&key.name)? }, wish))
}

#[cfg(test)]
mod tests {
    use super::*;
    use capstan_sdk::contract::runtime::Log;

    #[test]
    fn a_wish_is_read_as_it_was_written() {
        let log = Log { path: "/l".into(), is_raw: true, max_bytes: 5, max_files: 6 };
        for stdio in [Stdio::Null, Stdio::Kept { has_stdin: false, log: Some(log) }] {
            let wish =
                Wish { stdio, is_wanted: true, restarts: 7, signal: 15, signaled_at_unix_ns: -1 };
            let place = TaskKey {
                namespace: capstan_sdk::Namespace::parse("n").unwrap(),
                id: ContainerId::parse("web").unwrap(),
            };
            let got = read(key(&place), &write(&wish)).unwrap();
            assert_eq!(got, (place, wish));
        }
    }
}
