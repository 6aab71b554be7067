//! differ.tar passes the suite of its kind: compiled in, and over a boundary.

use std::io::Read;
use std::sync::mpsc;
use std::time::Duration;

use capstan_diff_tar::TarDiffer;
use capstan_sdk::conformance::differ;
use capstan_sdk::contract::Differ;
use capstan_sdk::contract::differ::{Apply, LayerStream, Whiteouts};
use capstan_sdk::testing::{Bench, run};
use capstan_sdk::{Class, Mount};

use crate::layer::PLAIN;

async fn check(bench: &Bench) {
    let place = bench.path("trees");
    std::fs::create_dir(&place).unwrap();
    differ::run(&bench.link("differ"), &place).await;
}

#[test]
fn a_static_one() {
    run(|| async {
        let mut bench = Bench::new();
        bench.start::<TarDiffer>("").await.unwrap();
        check(&bench).await;
    });
}

#[test]
fn over_the_wire() {
    run(|| async {
        let mut bench = Bench::new();
        bench.start_over_wire::<TarDiffer>("").await.unwrap();
        check(&bench).await;
        bench.stop::<TarDiffer>().await;
    });
}

#[test]
fn its_configuration_goes_over_the_wire() {
    run(|| async {
        let mut bench = Bench::new();
        let error = bench.start_over_wire::<TarDiffer>("max_entrys = 3").await.unwrap_err();
        assert_eq!(error.class(), Class::InvalidArgument, "{error}");
    });
}

/// Gives nothing and says that it was asked, until it is let go.
struct Silent {
    asked: tokio::sync::mpsc::UnboundedSender<()>,
    go: mpsc::Receiver<()>,
}

impl Read for Silent {
    fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
        let _ = self.asked.send(());
        let _ = self.go.recv();
        Ok(0)
    }
}

#[test]
fn a_call_that_is_under_way_when_the_plugin_ends_breaks_off() {
    run(|| async {
        let mut bench = Bench::new();
        bench.start_over_wire::<TarDiffer>("").await.unwrap();
        let link = bench.link::<Differ>("differ");
        let source = bench.path("root").to_str().unwrap().to_owned();
        let mounts = vec![Mount { kind: "bind".into(), source, options: vec!["rbind".into()] }];
        let (asked, mut was_asked) = tokio::sync::mpsc::unbounded_channel();
        let (let_go, go) = mpsc::channel();
        let layer = LayerStream(Box::new(Silent { asked, go }));
        let media_type = PLAIN.into();
        let apply = Apply { layer, media_type, mounts, whiteouts: Whiteouts::Remove };
        let call = link.send(apply);
        let end = async {
            was_asked.recv().await.unwrap();
            // The plugin's thread waits for the layer; it ends when that does. That is let go of when the end has begun: before
            // that there would be time for an answer.
            let let_go = async move { drop(let_go) };
            futures::future::join(bench.stop::<TarDiffer>(), let_go).await;
        };
        let both = futures::future::join(call, end);
        let (answer, ()) = tokio::time::timeout(Duration::from_secs(5), both).await.unwrap();
        let error = answer.unwrap_err();
        assert_eq!(error.class(), Class::Unavailable, "{error}");
    });
}
