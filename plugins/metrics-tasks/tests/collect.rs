//! metrics.tasks with a runtime of the test's own: it passes the suite of its kind, and one task that cannot
//! be measured takes nothing from the others.

use std::collections::{BTreeMap, BTreeSet};

use actix::{Actor, Addr, Context as Cell, Handler};
use capstan_metrics_tasks::TaskMetrics;
use capstan_sdk::conformance::metrics;
use capstan_sdk::contract::metrics::{Collect, Sample};
use capstan_sdk::contract::runtime::{
    Checkpoint, CloseStdin, Create, Delete, DeleteExec, Exec, Exit, Inspect, Kill, List, LogPiece,
    Measure, Pause, ProcessInfo, Processes, ReadLog, Resize, Restore, Resume, RuntimeAddr, Start,
    StartExec, Status, StdioPaths, TaskInfo, TaskKey, Update, Wait,
};
use capstan_sdk::contract::{Metrics, Runtime};
use capstan_sdk::testing::{Bench, run};
use capstan_sdk::{ContainerId, Context, Error, Exports, Info, Namespace, Plugin, Result};

/// A runtime whose tasks have the names of its configuration.
struct Fake(Tasks);

#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
struct Tasks {
    names: BTreeSet<String>,
}

impl Plugin for Fake {
    const INFO: Info = Info {
        id: "runtime.fake",
        version: env!("CARGO_PKG_VERSION"),
        about: "tasks in name only",
        requires: &[],
        rank: 0,
    };
    type Config = Tasks;

    async fn build(tasks: Tasks, _: Context) -> Result<Self> {
        Ok(Self(tasks))
    }

    fn export(addr: &Addr<Self>, _: &Context, exports: &mut Exports) {
        exports.contract::<Runtime>(RuntimeAddr::from(addr));
    }
}

impl Actor for Fake {
    type Context = Cell<Self>;
}

fn info(name: &str) -> TaskInfo {
    let (namespace, id) = (Namespace::parse("default"), ContainerId::parse(name));
    TaskInfo {
        key: TaskKey { namespace: namespace.unwrap(), id: id.unwrap() },
        pid: 1,
        status: Status::Running,
        exit: None,
        stdio: StdioPaths::default(),
        has_terminal: false,
        created_at_unix_ns: 0,
        started_at_unix_ns: 0,
        shim_pid: 0,
        runtime: String::new(),
        restarts: 0,
    }
}

impl Handler<List> for Fake {
    type Result = Result<Vec<TaskInfo>>;
    fn handle(&mut self, _: List, _: &mut Cell<Self>) -> Self::Result {
        Ok(self.0.names.iter().map(|name| info(name)).collect())
    }
}

impl Handler<Measure> for Fake {
    type Result = Result<Vec<Sample>>;
    fn handle(&mut self, Measure(key): Measure, _: &mut Cell<Self>) -> Self::Result {
        match key.id.as_str() {
            "broken" => Err(Error::internal("it cannot be read")),
            "gone" => Err(Error::not_found("it was deleted")),
            "wrong" => Ok(vec![Sample::gauge("No Name", "Help.", 1.0)]),
            _ => Ok(vec![Sample::gauge("container_pids_current", "Processes.", 3.0)]),
        }
    }
}

macro_rules! unused {
    ($($message:ty => $reply:ty),* $(,)?) => {$(
        impl Handler<$message> for Fake {
            type Result = Result<$reply>;
            fn handle(&mut self, _: $message, _: &mut Cell<Self>) -> Self::Result {
                Err(Error::unimplemented("not part of the test"))
            }
        }
    )*};
}

unused! {
    Create => TaskInfo, Start => u32, Wait => Exit, Kill => (), Delete => Exit, Inspect => TaskInfo,
    Exec => StdioPaths, StartExec => u32, DeleteExec => Exit, Processes => Vec<ProcessInfo>,
    Resize => (), CloseStdin => (), Pause => (), Resume => (), Update => (), Checkpoint => (),
    Restore => TaskInfo, ReadLog => LogPiece,
}

async fn bench(names: &str) -> Bench {
    let mut bench = Bench::new();
    bench.start::<Fake>(&format!("names = [{names}]")).await.unwrap();
    bench.start::<TaskMetrics>("").await.unwrap();
    bench
}

#[test]
fn conformance() {
    run(|| async {
        let bench = bench(r#""web", "db""#).await;
        metrics::run(&bench.link("metrics")).await;
    });
}

#[test]
fn a_task_that_cannot_be_measured_is_left_out() {
    run(|| async {
        let bench = bench(r#""broken", "db", "gone", "web", "wrong""#).await;
        let samples = bench.link::<Metrics>("metrics").send(Collect).await.unwrap();
        let labels = |sample: &Sample| sample.labels.iter().cloned().collect::<BTreeMap<_, _>>();
        let ids: Vec<String> = samples.iter().map(|one| labels(one)["id"].clone()).collect();
        assert_eq!(ids, ["db", "web"]);
        assert!(samples.iter().all(|one| labels(one)["namespace"] == "default"));
    });
}
