//! Both forms of deletion show the same image, for random layers on each other.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use capstan_diff_tar::{Config, Parents, settle};
use capstan_sdk::contract::differ::Pending;
use capstan_sdk::contract::differ::Whiteouts::{self, Overlay, Remove};
use capstan_sdk::mount::with_mounted;
use capstan_sdk::{Class, Error, Mount, Result};
use proptest::prelude::{Just, Strategy, prop, prop_oneof};
use proptest::test_runner::{Config as Cases, RngAlgorithm, TestRng, TestRunner};

use crate::layer::{Layer, PLAIN, apply_in};
use crate::tree::{Nodes, assert_same, fast_dir, nodes};

/// One entry of a layer.
#[derive(Clone, Debug)]
enum Op {
    Dir(String, u32),
    File(String, u8),
    Symlink(String, String),
    Link(String, String),
    Whiteout(String),
    Opaque(String),
}

/// `s` is for symbolic links.
fn paths(component: &'static str) -> impl Strategy<Value = String> {
    prop::collection::vec(component, 1..4).prop_map(|parts| parts.join("/"))
}

fn ops() -> impl Strategy<Value = Op> {
    let mode = prop_oneof![Just(0o700), Just(0o755), Just(0o1777)];
    let plain = || paths("[abc]");
    let any = || prop_oneof![4 => plain(), 1 => paths("[abcs]")];
    let link = plain().prop_map(|path| format!("{path}/s"));
    let target = prop_oneof![any(), any().prop_map(|path| format!("/{path}")), Just("..".into())];
    prop_oneof![
        3 => (any(), mode).prop_map(|(path, mode)| Op::Dir(path, mode)),
        4 => (any(), 0..9_u8).prop_map(|(path, data)| Op::File(path, data)),
        1 => (link, target).prop_map(|(path, target)| Op::Symlink(path, target)),
        2 => (any(), any()).prop_map(|(path, target)| Op::Link(path, target)),
        2 => any().prop_map(Op::Whiteout),
        1 => any().prop_map(Op::Opaque),
    ]
}

impl Op {
    /// What it makes.
    fn path(&self) -> Option<&str> {
        match self {
            Self::Dir(path, _)
            | Self::File(path, _)
            | Self::Symlink(path, _)
            | Self::Link(path, _) => Some(path),
            Self::Whiteout(_) | Self::Opaque(_) => None,
        }
    }
}

fn layer(ops: &[Op]) -> Layer {
    // Where the parents have a link, what stands below it is put behind it, unless the layer alone
    // is looked at and replaces the link afterwards. No program writes parents last.
    let is_late = |at: usize, path: &str| {
        let earlier = ops[..at].iter().filter_map(Op::path);
        earlier
            .into_iter()
            .any(|other| other.strip_prefix(path).is_some_and(|r| r.starts_with('/')))
    };
    let ops = ops.iter().enumerate();
    let ops = ops.filter(|(at, op)| op.path().is_none_or(|path| !is_late(*at, path)));
    ops.fold(Layer::default(), |layer, (_, op)| match op {
        Op::Dir(path, mode) => layer.with_mode(b'5', path, *mode),
        Op::File(path, data) => layer.file(path, &data.to_string()),
        Op::Symlink(path, target) => layer.symlink(path, target),
        Op::Link(path, target) => layer.link(path, target),
        Op::Whiteout(path) => {
            let (dir, base) = path.rsplit_once('/').unwrap_or((".", path));
            layer.file(&format!("{dir}/.wh.{base}"), "")
        }
        Op::Opaque(path) => layer.file(&format!("{path}/.wh..wh..opq"), ""),
    })
}

/// The layers of an image in overlay form, each in a directory of its own.
struct Image {
    dir: tempfile::TempDir,
    layers: Vec<PathBuf>,
}

impl Image {
    /// A view of the layers, with `upper` on top to be written to.
    fn mounts(&self, upper: &Path) -> Vec<Mount> {
        let lower: Vec<&str> = self.layers.iter().rev().map(|dir| dir.to_str().unwrap()).collect();
        let mount = |kind: &str, source: &Path, options: Vec<String>| {
            let source = source.to_str().unwrap().to_owned();
            vec![Mount { kind: kind.into(), source, options }]
        };
        if lower.is_empty() {
            return mount("bind", upper, vec!["rbind".into()]);
        }
        let work = self.dir.path().join("work");
        fs::create_dir_all(&work).unwrap();
        let option = |key: &str, path: &Path| format!("{key}={}", path.to_str().unwrap());
        let options = vec![
            format!("lowerdir={}", lower.join(":")),
            option("upperdir", upper),
            option("workdir", &work),
        ];
        mount("overlay", Path::new("overlay"), options)
    }

    fn with<T: Send>(
        &self,
        upper: &Path,
        work: impl FnOnce(OwnedFd) -> Result<T> + Send,
    ) -> Result<T> {
        let place = self.dir.path().join("place");
        fs::create_dir_all(&place).unwrap();
        with_mounted(&self.mounts(upper), &place, work)
    }

    fn empty_dir(&self, name: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        if path.exists() {
            fs::remove_dir_all(&path).unwrap();
        }
        fs::create_dir(&path).unwrap();
        path
    }

    /// As the transfer plugin does it: alone first, on the parents if that cannot be.
    fn add(&mut self, layer: &Layer) -> Result<()> {
        let path = self.empty_dir(&self.layers.len().to_string());
        if self.layers.is_empty() {
            // Below the lowest layer there is nothing to delete.
            apply(layer, fs::File::open(&path).unwrap().into(), Remove)?;
            self.layers.push(path);
            return Ok(());
        }
        match self.add_alone(layer, &path) {
            Err(error) if error.class() == Class::FailedPrecondition => {
                self.empty_dir(&self.layers.len().to_string());
                self.with(&path, |root| apply(layer, root, Remove))?;
            }
            result => result?,
        }
        self.layers.push(path);
        Ok(())
    }

    /// With parents that are mounted, and with those that are not: it is the same.
    fn add_alone(&self, layer: &Layer, path: &Path) -> Result<()> {
        let open = |path: &Path| OwnedFd::from(fs::File::open(path).unwrap());
        let (upper, beside) = (self.empty_dir("upper"), self.empty_dir("beside"));
        let pending = apply(layer, open(&beside), Overlay)?;
        let config = Config::default();
        let mounted = self.with(&upper, |parent| {
            settle(open(&beside), Parents::tree(parent)?, &pending, &config)
        });
        let pending = apply(layer, open(path), Overlay)?;
        let parents = Parents::layers(self.layers.iter().rev().cloned().collect());
        let settled = settle(open(path), parents, &pending, &config);
        let class = |result: &Result<()>| result.as_ref().err().map(|error| error.class());
        assert_eq!(class(&settled), class(&mounted), "{settled:?}, {mounted:?}");
        if settled.is_ok() {
            assert_same(&undated(nodes(path)), &undated(nodes(&beside)));
        }
        settled
    }

    fn nodes(&self) -> Nodes {
        let upper = self.empty_dir("upper");
        self.with(&upper, |root| {
            let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&root));
            Ok(nodes(Path::new(&format!("{path}/"))))
        })
        .unwrap()
    }
}

fn apply(layer: &Layer, root: OwnedFd, form: Whiteouts) -> Result<Pending> {
    let applied = apply_in(layer.clone().end(), PLAIN, root, form, &Config::default())?;
    Ok(applied.pending)
}

/// Without the times of directories and whiteouts: those that no layer describes are as old as their tree.
fn undated(mut nodes: Nodes) -> Nodes {
    for node in nodes.values_mut().filter(|node| ["directory", "char"].contains(&node.kind)) {
        node.mtime = (0, 0);
    }
    nodes
}

/// What cannot be the same: times of directories that nobody described, and names of one file,
/// which a copy of a parent's file does not share with its other names.
fn comparable(mut nodes: Nodes) -> Nodes {
    for node in nodes.values_mut() {
        node.same_as = None;
        if node.kind == "directory" {
            node.mtime = (0, 0);
        }
        // overlayfs shows its own attributes when a directory was made in the mounted tree.
        node.xattrs.retain(|name, _| !name.starts_with("trusted.overlay."));
    }
    nodes.remove(".");
    nodes
}

fn is_about_parents(error: &Error) -> bool {
    error.message().ends_with("which is no directory")
        || error.message().starts_with("the hard link")
}

#[test]
fn both_forms_show_the_same_image() {
    let cases = Cases { cases: 400, failure_persistence: None, ..Cases::default() };
    // The same ones each time.
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(cases, rng);
    let image = prop::collection::vec(prop::collection::vec(ops(), 1..12), 1..5);
    let result = runner.run(&image, |layers| {
        let tree = fast_dir();
        let mut image = Image { dir: fast_dir(), layers: Vec::new() };
        for ops in &layers {
            let layer = layer(ops);
            let removing = layer.apply(tree.path(), Remove);
            let overlay = image.add(&layer);
            match (removing, overlay) {
                (Ok(_), Ok(())) => {}
                (Err(one), Err(other)) => {
                    assert_eq!((one.class(), other.class()), (Class::Corrupt, Class::Corrupt));
                    return Ok(());
                }
                // What cannot be on these parents is refused. In overlay form that is seen at the
                // end, and not if the layer has replaced it by then.
                (Err(error), Ok(())) if is_about_parents(&error) => return Ok(()),
                (one, other) => panic!("{one:?} but {other:?}"),
            }
            let (got, want) = (comparable(image.nodes()), comparable(nodes(tree.path())));
            crate::tree::assert_same(&got, &want);
        }
        Ok(())
    });
    result.unwrap();
}
