//! The actor, with real mounts: nobody else sees them, and none is left.

use std::fs;
use std::io::{Cursor, Read};

use capstan_diff_tar::TarDiffer;
use capstan_sdk::contract::Differ;
use capstan_sdk::contract::differ::{
    Apply, Diff, LayerSink, LayerStream, Pending, Settle, Whiteouts,
};
use capstan_sdk::mount::with_mounted;
use capstan_sdk::testing::{Bench, run};
use capstan_sdk::{Class, Error, Link, Mount};

use crate::layer::{Layer, PLAIN};
use crate::tree::listing;

fn bind(source: &str) -> Vec<Mount> {
    vec![Mount { kind: "bind".into(), source: source.into(), options: vec!["rbind".into()] }]
}

async fn apply(
    differ: &Link<Differ>,
    layer: impl Read + Send + 'static,
    mounts: Vec<Mount>,
    whiteouts: Whiteouts,
) -> Result<Pending, Error> {
    let layer = LayerStream(Box::new(layer));
    let media_type = PLAIN.into();
    let applied = differ.send(Apply { layer, media_type, mounts, whiteouts }).await?;
    Ok(applied.pending)
}

#[test]
fn layers_are_applied_below_mounts_that_nobody_sees() {
    run(|| async {
        let mut bench = Bench::new();
        bench.start::<TarDiffer>("max_entries = 3").await.unwrap();
        let differ = bench.link::<Differ>("differ");
        let dirs = ["lower", "upper", "work", "alone"].map(|name| bench.path(name));
        for dir in &dirs {
            fs::create_dir(dir).unwrap();
        }
        let [lower, upper, work, alone] = dirs.each_ref().map(|dir| dir.to_str().unwrap());
        let before = fs::read("/proc/self/mountinfo").unwrap();
        let layer = Layer::default().dir("d").file("d/f", "1").file("d/g", "1").end();
        apply(&differ, Cursor::new(layer), bind(lower), Whiteouts::Remove).await.unwrap();
        let overlay = vec![Mount {
            kind: "overlay".into(),
            source: "overlay".into(),
            options: vec![
                format!("lowerdir={lower}"),
                format!("upperdir={upper}"),
                format!("workdir={work}"),
            ],
        }];
        let layer = Layer::default().file("d/.wh.f", "").file("d/h", "2").end();
        apply(&differ, Cursor::new(layer), overlay.clone(), Whiteouts::Remove).await.unwrap();
        assert_eq!(listing(dirs[0].as_path()), ["d/", "d/f=1", "d/g=1"]);
        assert_eq!(listing(dirs[1].as_path()), ["d/", "d/f gone", "d/h=2"]);
        let layer = Layer::default().link("d/i", "d/g").end();
        let pending = apply(&differ, Cursor::new(layer), bind(alone), Whiteouts::Overlay).await;
        let settle = Settle { layer: bind(alone), parent: overlay, pending: pending.unwrap() };
        differ.send(settle).await.unwrap();
        assert_eq!(listing(dirs[3].as_path()), ["d/", "d/g=1", "d/i=1"]);
        let layer = Layer::default().file("1", "").file("2", "").file("3", "").file("4", "").end();
        let error = apply(&differ, Cursor::new(layer), bind(lower), Whiteouts::Remove).await;
        assert_eq!(error.unwrap_err().class(), Class::ResourceExhausted);
        assert!(fs::read("/proc/self/mountinfo").unwrap() == before);
        let place = bench.path("state/differ.tar/mnt");
        assert_eq!(fs::read_dir(place).unwrap().count(), 0);
    });
}

#[test]
fn capabilities_are_not_lost_silently() {
    run(|| async {
        let mut bench = Bench::new();
        bench.start::<TarDiffer>("").await.unwrap();
        let differ = bench.link::<Differ>("differ");
        // A file system without extended attributes.
        let mounts =
            || vec![Mount { kind: "ramfs".into(), source: "none".into(), options: vec![] }];
        let capability = b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
        let layer = |name: &str, value: &[u8]| {
            let xattr = format!("SCHILY.xattr.{name}");
            Cursor::new(Layer::default().pax(&[(&xattr, value)]).file("f", "").end())
        };
        let user = apply(&differ, layer("user.a", b"1"), mounts(), Whiteouts::Remove).await;
        user.unwrap();
        let layer = layer("security.capability", capability);
        let error = apply(&differ, layer, mounts(), Whiteouts::Remove).await.unwrap_err();
        assert!(error.message().contains("extended attributes of \"f\""), "{error}");
    });
}

#[test]
fn a_panic_in_the_stream_fails_one_call() {
    struct Panics;
    impl Read for Panics {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            std::panic::resume_unwind(Box::new("quietly"))
        }
    }
    run(|| async {
        let mut bench = Bench::new();
        bench.start::<TarDiffer>("").await.unwrap();
        let differ = bench.link::<Differ>("differ.tar");
        let root = bench.path("root");
        let mounts = || bind(root.to_str().unwrap());
        let start = Layer::default().file("a", "1").0;
        for layer in [Vec::new(), start] {
            let layer = Cursor::new(layer).chain(Panics);
            let error = apply(&differ, layer, mounts(), Whiteouts::Remove).await.unwrap_err();
            assert_eq!(error.class(), Class::Internal, "{error}");
        }
        let layer = Cursor::new(Layer::default().file("b", "2").end());
        apply(&differ, layer, mounts(), Whiteouts::Remove).await.unwrap();
        assert_eq!(fs::read(root.join("b")).unwrap(), b"2");
    });
}

/// Whether only the upper layer is read or all of the tree: the same bytes, and no mount is seen or left.
#[test]
fn changes_of_an_overlay_are_written_while_it_is_in_use() {
    run(|| async {
        let mut bench = Bench::new();
        bench.start::<TarDiffer>("").await.unwrap();
        let differ = bench.link::<Differ>("differ");
        let dirs = ["lower", "upper", "work", "place", "copy"].map(|name| bench.path(name));
        for dir in &dirs {
            fs::create_dir(dir).unwrap();
        }
        let [lower, upper, work, _, copy] = dirs.each_ref().map(|dir| dir.to_str().unwrap());
        let layer = Layer::default().dir("d").file("d/f", "1").file("d/g", "1").file("e", "1");
        apply(&differ, Cursor::new(layer.clone().end()), bind(lower), Whiteouts::Remove)
            .await
            .unwrap();
        apply(&differ, Cursor::new(layer.end()), bind(copy), Whiteouts::Remove).await.unwrap();
        let overlay = |more: &[String]| {
            let options = [format!("lowerdir={lower}"), format!("upperdir={upper}")];
            let options = options.iter().chain(more).cloned().collect();
            vec![Mount { kind: "overlay".into(), source: "overlay".into(), options }]
        };
        let tree = overlay(&[format!("workdir={work}"), "volatile".into()]);
        let before = fs::read("/proc/self/mountinfo").unwrap();
        let write = async |parent: &str| {
            let bytes = crate::changes::Shared::default();
            let out = LayerSink(Box::new(bytes.clone()));
            let media_type = PLAIN.into();
            let diff = Diff { parent: bind(parent), tree: tree.clone(), media_type, out };
            differ.send(diff).await.unwrap();
            let bytes = bytes.0.lock().unwrap();
            bytes.clone()
        };
        // Mounted as a container has it, all the while.
        let (ready, is_ready) = tokio::sync::oneshot::channel();
        let (end, is_over) = std::sync::mpsc::channel::<()>();
        let (mounts, place) = (tree.clone(), dirs[3].clone());
        let user = std::thread::spawn(move || {
            with_mounted(&mounts, &place, move |root| {
                use std::os::fd::AsRawFd as _;
                let root = std::path::PathBuf::from(format!("/proc/self/fd/{}", root.as_raw_fd()));
                fs::write(root.join("d/f"), "22").unwrap();
                fs::remove_file(root.join("d/g")).unwrap();
                fs::remove_file(root.join("e")).unwrap();
                fs::create_dir(root.join("e")).unwrap();
                ready.send(()).unwrap();
                let _ = is_over.recv();
                Ok(())
            })
        });
        is_ready.await.unwrap();
        let fast = write(lower).await;
        // Its lower layer is another directory: all of the tree is compared.
        let whole = write(copy).await;
        drop(end);
        user.join().unwrap().unwrap();
        assert_eq!(crate::changes::entries(&fast), ["d/", "d/f", "d/.wh.g", "e/"]);
        assert!(fast == whole, "{:?}", crate::changes::entries(&whole));
        assert!(fs::read("/proc/self/mountinfo").unwrap() == before);
    });
}

#[test]
fn a_window_that_zstd_does_not_have_is_refused_at_the_start() {
    run(|| async {
        let mut bench = Bench::new();
        let error = bench.start::<TarDiffer>("max_window_bytes = 0").await.unwrap_err();
        assert_eq!(error.class(), Class::InvalidArgument, "{error}");
        assert!(error.message().contains("max_window_bytes"), "{error}");
    });
}
