//! runtime.linux passes the suite of its kind, with the embedded runtime. It needs root, a static busybox, and
//! the programs that `cargo xtask build --test` makes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use actix::{Actor, Addr, Context as Cell, Handler};
use capstan_runtime_linux::LinuxRuntime;
use capstan_sdk::conformance::runtime::{self, Bundle};
use capstan_sdk::contract::Events;
use capstan_sdk::contract::events::{Batch, Event, EventsAddr, Publish, Read, Watch};
use capstan_sdk::testing::{Bench, run};
use capstan_sdk::{Context, Exports, Info, Plugin, Result};
use tokio::sync::watch;

/// A log in memory: a plugin's tests start no other plugin, and runtimes need one of this kind.
#[derive(Default)]
struct Log {
    events: Vec<Event>,
    newest: watch::Sender<u64>,
}

impl Plugin for Log {
    const INFO: Info = Info {
        id: "events.test",
        version: env!("CARGO_PKG_VERSION"),
        about: "events in memory",
        requires: &[],
        rank: 0,
    };
    type Config = BTreeMap<String, String>;

    async fn build(_: Self::Config, _: Context) -> Result<Self> {
        Ok(Self::default())
    }

    fn export(addr: &Addr<Self>, _: &Context, exports: &mut Exports) {
        exports.contract::<Events>(EventsAddr::from(addr));
    }
}

impl Actor for Log {
    type Context = Cell<Self>;
}

impl Handler<Publish> for Log {
    type Result = Result<u64>;
    fn handle(&mut self, Publish(events): Publish, _: &mut Cell<Self>) -> Self::Result {
        for event in events {
            let cursor = self.events.len() as u64 + 1;
            self.events.push(Event { cursor, time_unix_ns: 0, event });
        }
        let newest = self.events.len() as u64;
        self.newest.send_replace(newest);
        Ok(newest)
    }
}

impl Handler<Read> for Log {
    type Result = Result<Batch>;
    fn handle(&mut self, read: Read, _: &mut Cell<Self>) -> Self::Result {
        let is_wanted =
            |event: &&Event| event.cursor > read.after && read.filter.matches(&event.event);
        let events: Vec<Event> =
            self.events.iter().filter(is_wanted).take(read.limit).cloned().collect();
        let cursor = events.last().map_or(read.after, |event| event.cursor);
        Ok(Batch { events, cursor, missed: 0 })
    }
}

impl Handler<Watch> for Log {
    type Result = Result<watch::Receiver<u64>>;
    fn handle(&mut self, _: Watch, _: &mut Cell<Self>) -> Self::Result {
        Ok(self.newest.subscribe())
    }
}

/// One of capstan's own programs: in `CAPSTAN_BIN`, or where `cargo xtask build --test` puts them.
fn program(name: &str) -> PathBuf {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("a workspace");
    let dir = std::env::var_os("CAPSTAN_BIN")
        .map_or_else(|| workspace.join("target/capstan-test"), PathBuf::from);
    let path = dir.join(name);
    assert!(path.is_file(), "{} is not there: run `cargo xtask build --test`", path.display());
    path
}

#[test]
fn conformance() {
    run(|| async {
        let mut bench = Bench::new();
        let section = format!(
            "shim = {:?}\nruntimes.embedded.binary = {:?}\n",
            program("capstan-shim"),
            program("capstan-runtime"),
        );
        bench.start::<Log>("").await.unwrap();
        bench.start::<LinuxRuntime>(&section).await.unwrap();
        let (bundle, _cgroups) = Bundle::of_busybox(bench.path("rootfs"));
        runtime::run(&bench.link("runtime"), &bundle).await;
        let told = bench.link::<Events>("events");
        let read = Read { after: 0, limit: usize::MAX, filter: Default::default() };
        let events = told.send(read).await.unwrap().events;
        let count = |topic: &str| events.iter().filter(|it| it.event.topic == topic).count();
        assert!(count("/tasks/create") > 0);
        assert_eq!(count("/tasks/create"), count("/tasks/delete"));
        bench.stop::<LinuxRuntime>().await;
        // Also of the namespaces in which nothing could be created.
        for hierarchy in std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
            let left = hierarchy.path().join(bundle.cgroup_parent.trim_start_matches('/'));
            assert!(!left.exists(), "{} is left", left.display());
        }
    });
}
