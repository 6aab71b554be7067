//! Plugins that do not require each other start at once; one that requires others comes behind them.

use std::sync::Mutex;
use std::time::Duration;

use actix::{Actor, Addr};
use capstan_kernel::{Candidate, Config, Kernel, Loader, Setup};
use capstan_sdk::{
    Context, DaemonInfo, Error, Exports, Info, Kernel as _, Plugin, PluginDescriptor, PluginState,
    Result,
};
use tokio::sync::Semaphore;

/// What happened, in this order.
static STORY: Mutex<Vec<String>> = Mutex::new(Vec::new());
/// One permit for each of the first two that has begun to start.
static BEGUN: Semaphore = Semaphore::const_new(0);

fn tell(id: &str, what: &str) {
    STORY.lock().unwrap().push(format!("{id} {what}"));
}

#[derive(Debug, Default, serde::Serialize, serde::Deserialize)]
struct Nothing {}

macro_rules! plugin {
    ($name:ident, $id:literal, $requires:expr, $build:expr) => {
        struct $name;

        impl Plugin for $name {
            const INFO: Info =
                Info { id: $id, version: "1", about: "for a test", requires: $requires, rank: 0 };
            type Config = Nothing;

            async fn build(_: Nothing, _: Context) -> Result<Self> {
                tell($id, "begins");
                let outcome: Result<()> = $build.await;
                tell($id, "ends");
                outcome.map(|()| Self)
            }

            fn export(addr: &Addr<Self>, _: &Context, exports: &mut Exports) {
                // An actor whose address nobody has ends.
                let addr = addr.clone();
                exports.drain(move || {
                    assert!(addr.connected());
                    async { Ok(Vec::new()) }
                });
            }
        }

        impl Actor for $name {
            type Context = actix::Context<Self>;
        }
    };
}

/// Waits until both have begun; neither would, if they were started in turn.
async fn meet() -> Result<()> {
    BEGUN.add_permits(1);
    let both = tokio::time::timeout(Duration::from_secs(20), BEGUN.acquire_many(2)).await;
    match both {
        Ok(permits) => {
            drop(permits);
            Ok(())
        }
        Err(_) => Err(Error::unavailable("the other one does not begin")),
    }
}

plugin!(First, "one.first", &[], meet());
plugin!(Second, "two.second", &[], meet());
plugin!(Third, "three.third", &["one", "two", "fails?"], async { Ok(()) });
plugin!(Fails, "fails.fourth", &[], async { Err(Error::invalid("not today")) });
plugin!(Fifth, "five.fifth", &["fails"], async { Ok(()) });

#[test]
fn plugins_start_at_once_where_they_can() {
    let dir = tempfile::tempdir().unwrap();
    let (root, state) = (dir.path().join("root"), dir.path().join("state"));
    std::fs::create_dir(&root).unwrap();
    std::fs::create_dir(&state).unwrap();
    let text = format!("root = {root:?}\nstate = {state:?}\nplugin_dirs = []\n");
    let config = Config::parse(&text, "the test's").unwrap();
    let reread = {
        let config = config.clone();
        Box::new(move || Ok(config.clone()))
    };
    let builtins: Vec<Candidate> = [
        PluginDescriptor::of::<First>(),
        PluginDescriptor::of::<Second>(),
        PluginDescriptor::of::<Third>(),
        PluginDescriptor::of::<Fails>(),
        PluginDescriptor::of::<Fifth>(),
    ]
    .map(Candidate::from)
    .to_vec();
    let daemon = DaemonInfo {
        version: "1",
        revision: "",
        root,
        state,
        address: String::new(),
        started_at_unix_ns: 0,
    };
    let loader = Loader::new(std::env::current_exe().unwrap());
    actix_rt::System::new().block_on(async {
        let setup = Setup { config, builtins, loader, reread };
        let kernel = Kernel::boot(setup, daemon).await.unwrap();
        let state = |id: &str| {
            let plugins = kernel.registry().plugins();
            plugins.iter().find(|plugin| plugin.id == id).unwrap().state
        };
        for id in ["one.first", "two.second", "three.third"] {
            assert_eq!(state(id), PluginState::Running, "{id}");
        }
        assert_eq!(state("fails.fourth"), PluginState::Failed);
        assert_eq!(state("five.fifth"), PluginState::Skipped);
        kernel.stop().await;
    });
    let story = STORY.lock().unwrap();
    let at = |what: &str| story.iter().position(|line| line == what).unwrap();
    for before in ["one.first ends", "two.second ends", "fails.fourth ends"] {
        assert!(at("three.third begins") > at(before), "{story:?}");
    }
    assert!(!story.iter().any(|line| line.starts_with("five")), "{story:?}");
}
