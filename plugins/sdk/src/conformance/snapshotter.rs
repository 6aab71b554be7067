//! The suite of kind `snapshotter`. It mounts, so it needs root.

use std::fs;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use capstan_schema::{Class, Labels, Mount, Namespace, Result};

use crate::contract::snapshotter::{
    Ask, Audit, Commit, CommitChain, Kind, List, Measure, Mounts, Prepare, Remove, SnapshotInfo,
    Stack, StackLayer, Stat, View,
};
use crate::contract::{Page, Snapshotter};
use crate::testing::Bench;
use crate::{Link, Plugin, mount};

/// One snapshotter under test.
pub struct Suite {
    pub(super) link: Link<Snapshotter>,
    pub(super) namespace: Namespace,
    place: PathBuf,
}

impl std::fmt::Debug for Suite {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Suite({:?})", self.link)
    }
}

/// Runs all cases, each in a namespace of its own. `place` is an empty directory for mounts.
///
/// # Panics
/// If a case fails.
pub async fn run(link: &Link<Snapshotter>, place: &Path) {
    let suite = |name: &str| Suite {
        link: link.clone(),
        namespace: Namespace::parse(name).expect("a case has a name"),
        place: place.to_owned(),
    };
    suite("basic").basic().await;
    suite("stat").stat().await;
    suite("transitivity").transitivity().await;
    suite("taken").taken_keys().await;
    suite("parents").parents().await;
    suite("commit").commit_rules().await;
    suite("remove").remove_rules().await;
    suite("views").views_are_read_only().await;
    suite("siblings").siblings_do_not_see_each_other().await;
    suite("top").top_directory_is_the_parents().await;
    suite("usage").usage().await;
    suite("pages").pages().await;
    suite("race").one_winner_per_key().await;
    suite("rebase").rebase().await;
    suite("chained").chained().await;
    suite("labels").labels_of_a_key_end_with_it().await;
    suite("seven").seven().await;
    suite("chain").a_chain().await;
    suite("order").rebased_in_order().await;
    suite("label").labelled().await;
    suite("label-race").commits_and_labels_race().await;
    suite("nodes").nodes_tell_uses().await;
    suite("collect").collections().await;
    suite("use-race").uses_and_collections_race().await;
    suite("once").usage_counts_once().await;
    suite("own").own_layers().await;
    suite("audit").nothing_to_find().await;
    suite("limits").limits().await;
    namespaces_are_apart(suite("ns-a"), suite("ns-b")).await;
}

/// Runs the case about limits alone: for a file system that keeps them, which may be slow.
///
/// # Panics
/// If it fails, or limits are not kept.
pub async fn run_limits(link: &Link<Snapshotter>, place: &Path) {
    let namespace = Namespace::parse("limits").expect("a case has a name");
    let suite = Suite { link: link.clone(), namespace, place: place.to_owned() };
    assert!(suite.limits().await, "limits are not kept");
}

/// Runs the case of a limit that a crash left behind a commit: an audit changes nothing, and healing may. For plugins that keep
/// limits by projects; `P` runs, and is started anew.
///
/// # Panics
/// If it fails.
pub async fn run_limit_left<P: Plugin>(bench: &mut Bench) {
    let link: Link<Snapshotter> = bench.link("snapshotter");
    let namespace = Namespace::parse("a").expect("it is a name");
    let (key, parent, labels) = ("key".to_owned(), String::new(), Labels::new());
    let prepare = Prepare { namespace: namespace.clone(), key, parent, labels };
    link.send(prepare).await.expect("prepare");
    let (name, key, labels) = ("name".into(), "key".into(), Labels::new());
    let commit = Commit { namespace, name, key, rebase: None, labels };
    link.send(commit).await.expect("commit");
    bench.stop::<P>().await;
    // Of a limit that was not set yet: no program is needed to end it.
    let marks = bench.root().join(P::INFO.id).join("limits");
    fs::create_dir_all(&marks).expect("make a directory");
    fs::write(marks.join("1"), "").expect("leave a limit");
    bench.start::<P>("").await.expect("start anew");
    for is_cleaning in [false, true] {
        let findings = link.send(Audit { is_full: true, is_cleaning }).await.expect("audit");
        assert!(findings.is_empty(), "{findings:?}");
        assert_eq!(marks.join("1").exists(), !is_cleaning);
    }
}

pub(super) fn class<T: std::fmt::Debug>(result: Result<T>) -> Class {
    result.expect_err("it must fail").class()
}

/// A path to a tree that only exists as a descriptor.
pub(super) fn inside(root: &OwnedFd, name: &str) -> PathBuf {
    format!("/proc/self/fd/{}/{name}", root.as_raw_fd()).into()
}

impl Suite {
    pub(super) async fn prepare(&self, key: &str, parent: &str) -> Result<Vec<Mount>> {
        let (key, parent) = (key.into(), parent.into());
        let message =
            Prepare { namespace: self.namespace.clone(), key, parent, labels: Labels::new() };
        self.link.send(message).await
    }

    pub(super) async fn view(&self, key: &str, parent: &str) -> Result<Vec<Mount>> {
        let (key, parent) = (key.into(), parent.into());
        let message =
            View { namespace: self.namespace.clone(), key, parent, labels: Labels::new() };
        self.link.send(message).await
    }

    pub(super) async fn commit(&self, name: &str, key: &str) -> Result<()> {
        let message = Commit {
            namespace: self.namespace.clone(),
            name: name.into(),
            key: key.into(),
            rebase: None,
            labels: Labels::new(),
        };
        self.link.send(message).await
    }

    pub(super) async fn remove(&self, key: &str) -> Result<()> {
        self.link.send(Remove { namespace: self.namespace.clone(), key: key.into() }).await
    }

    pub(super) async fn info(&self, key: &str) -> Result<SnapshotInfo> {
        self.link.send(Stat { namespace: self.namespace.clone(), key: key.into() }).await
    }

    pub(super) async fn mounts(&self, key: &str) -> Result<Vec<Mount>> {
        self.link.send(Mounts { namespace: self.namespace.clone(), key: key.into() }).await
    }

    pub(super) async fn keys(&self) -> String {
        let message = List { namespace: self.namespace.clone(), page: Page::all() };
        let listed = self.link.send(message).await.expect("list");
        listed.items.into_iter().map(|info| info.key).collect::<Vec<_>>().join(" ")
    }

    /// Works in a mounted tree.
    pub(super) fn inside<T: Send>(
        &self,
        mounts: &[Mount],
        work: impl FnOnce(&OwnedFd) -> T + Send,
    ) -> T {
        mount::with_mounted(mounts, &self.place, |root| Ok(work(&root))).expect("mount")
    }

    pub(super) fn write(&self, mounts: &[Mount], files: &[(&str, &str)]) {
        self.inside(mounts, |root| {
            for (name, text) in files {
                let path = inside(root, name);
                fs::create_dir_all(path.parent().expect("a file is in a directory"))
                    .expect("mkdir");
                fs::write(path, text).expect("write");
            }
        });
    }

    /// All files of a tree as `name=text`, in order.
    pub(super) fn read(&self, mounts: &[Mount]) -> String {
        fn walk(dir: &Path, name: &str, found: &mut Vec<String>) {
            for entry in fs::read_dir(dir).expect("list") {
                let entry = entry.expect("list");
                let name = format!("{name}{}", entry.file_name().to_string_lossy());
                if entry.file_type().expect("type").is_dir() {
                    walk(&entry.path(), &format!("{name}/"), found);
                } else {
                    let text = fs::read_to_string(entry.path()).expect("read");
                    found.push(format!("{name}={text}"));
                }
            }
        }
        self.inside(mounts, |root| {
            let mut found = Vec::new();
            walk(&inside(root, ""), "", &mut found);
            found.sort();
            found.join(" ")
        })
    }

    /// A committed snapshot with one file.
    pub(super) async fn layer(&self, name: &str, parent: &str, files: &[(&str, &str)]) {
        let key = format!("{name}-active");
        let mounts = self.prepare(&key, parent).await.expect("prepare");
        self.write(&mounts, files);
        self.commit(name, &key).await.expect("commit");
    }

    async fn basic(self) {
        let mounts = self.prepare("/key/1", "").await.expect("prepare");
        assert!(!mounts.is_empty());
        assert_eq!(self.mounts("/key/1").await.expect("mounts"), mounts);
        self.write(&mounts, &[("foo", "foo"), ("a/b/c", "c")]);
        self.commit("/one", "/key/1").await.expect("commit");
        assert_eq!(self.keys().await, "/one", "the key is consumed");

        let mounts = self.prepare("/key/2", "/one").await.expect("prepare on a parent");
        assert_eq!(self.read(&mounts), "a/b/c=c foo=foo");
        self.inside(&mounts, |root| {
            fs::write(inside(root, "bar"), "bar").expect("add");
            fs::write(inside(root, "foo"), "other").expect("change");
            fs::remove_dir_all(inside(root, "a/b")).expect("remove");
        });
        assert_eq!(self.read(&mounts), "bar=bar foo=other");
        self.commit("/two", "/key/2").await.expect("commit on a parent");
        assert_eq!(self.keys().await, "/one /two");

        let view = self.view("/view/2", "/two").await.expect("view");
        assert_eq!(self.read(&view), "bar=bar foo=other");
        let view = self.view("/view/1", "/one").await.expect("view of the first");
        assert_eq!(self.read(&view), "a/b/c=c foo=foo", "the parent did not change");
        self.remove("/view/1").await.expect("remove a view");
        self.remove("/view/2").await.expect("remove a view");
        assert_eq!(class(self.remove("/one").await), Class::FailedPrecondition);
        self.remove("/two").await.expect("remove a child");
        self.remove("/one").await.expect("remove a parent without children");
        assert_eq!(self.keys().await, "");
    }

    async fn stat(self) {
        self.prepare("active", "").await.expect("prepare");
        let info = self.info("active").await.expect("stat");
        assert_eq!(
            (info.key.as_str(), info.parent.as_str(), info.kind),
            ("active", "", Kind::Active)
        );
        assert!(info.created_at_unix_ns > 0);
        self.commit("committed", "active").await.expect("commit");
        let info = self.info("committed").await.expect("stat");
        assert_eq!((info.parent.as_str(), info.kind), ("", Kind::Committed));
        self.view("view", "committed").await.expect("view");
        let info = self.info("view").await.expect("stat");
        assert_eq!((info.parent.as_str(), info.kind), ("committed", Kind::View));
        for missing in ["active", "nothing"] {
            assert_eq!(class(self.info(missing).await), Class::NotFound);
            assert_eq!(class(self.mounts(missing).await), Class::NotFound);
            assert_eq!(class(self.remove(missing).await), Class::NotFound);
            assert_eq!(class(self.commit("x", missing).await), Class::NotFound);
        }
        assert_eq!(class(self.mounts("committed").await), Class::FailedPrecondition);
    }

    async fn transitivity(self) {
        self.layer("a", "", &[]).await;
        self.layer("b", "a", &[]).await;
        self.layer("c", "b", &[]).await;
        assert_eq!(self.info("c").await.expect("stat").parent, "b");
        assert_eq!(self.info("b").await.expect("stat").parent, "a");
        assert_eq!(self.info("a").await.expect("stat").parent, "");
    }

    async fn taken_keys(self) {
        self.layer("committed", "", &[]).await;
        self.prepare("active", "").await.expect("prepare");
        self.view("view", "").await.expect("view");
        for key in ["committed", "active", "view"] {
            assert_eq!(class(self.prepare(key, "").await), Class::AlreadyExists);
            assert_eq!(class(self.view(key, "").await), Class::AlreadyExists);
        }
        assert_eq!(class(self.commit("committed", "active").await), Class::AlreadyExists);
        assert_eq!(class(self.commit("view", "active").await), Class::AlreadyExists);
        assert_eq!(class(self.prepare("", "").await), Class::InvalidArgument);
        assert_eq!(class(self.commit("", "active").await), Class::InvalidArgument);
    }

    async fn parents(self) {
        self.prepare("active", "").await.expect("prepare");
        self.view("view", "").await.expect("view");
        assert_eq!(class(self.prepare("x", "nothing").await), Class::NotFound);
        assert_eq!(class(self.view("x", "nothing").await), Class::NotFound);
        for parent in ["active", "view"] {
            assert_eq!(class(self.prepare("x", parent).await), Class::InvalidArgument);
            assert_eq!(class(self.view("x", parent).await), Class::InvalidArgument);
        }
        assert_eq!(self.keys().await, "active view", "a failed prepare leaves nothing");
    }

    async fn commit_rules(self) {
        self.view("view", "").await.expect("view");
        assert_eq!(class(self.commit("x", "view").await), Class::FailedPrecondition);
        self.layer("committed", "", &[]).await;
        assert_eq!(class(self.commit("x", "committed").await), Class::FailedPrecondition);
        self.prepare("same", "").await.expect("prepare");
        self.commit("same", "same").await.expect("a key may become the name");
        assert_eq!(self.info("same").await.expect("stat").kind, Kind::Committed);
    }

    async fn remove_rules(self) {
        self.layer("base", "", &[]).await;
        self.prepare("active", "base").await.expect("prepare");
        assert_eq!(class(self.remove("base").await), Class::FailedPrecondition);
        assert_eq!(class(self.remove("base").await), Class::FailedPrecondition, "and again");
        self.remove("active").await.expect("remove an active one");
        self.view("view", "base").await.expect("view");
        assert_eq!(class(self.remove("base").await), Class::FailedPrecondition);
        self.remove("view").await.expect("remove a view");
        self.remove("base").await.expect("remove");
        self.prepare("base", "").await.expect("the name is free again");
    }

    async fn views_are_read_only(self) {
        self.layer("one", "", &[("file", "1")]).await;
        self.layer("two", "one", &[("other", "2")]).await;
        for parent in ["", "one", "two"] {
            let key = format!("view-{parent}");
            let mounts = self.view(&key, parent).await.expect("view");
            let written = self.inside(&mounts, |root| fs::write(inside(root, "new"), "x"));
            assert!(written.is_err(), "a view of {parent:?} was written to");
        }
    }

    async fn siblings_do_not_see_each_other(self) {
        self.layer("base", "", &[("file", "base")]).await;
        let one = self.prepare("one", "base").await.expect("prepare");
        let two = self.prepare("two", "base").await.expect("prepare");
        self.write(&one, &[("file", "one")]);
        assert_eq!(self.read(&two), "file=base");
        self.write(&two, &[("file", "two")]);
        assert_eq!(self.read(&one), "file=one");
        let view = self.view("view", "base").await.expect("view");
        assert_eq!(self.read(&view), "file=base");
    }

    /// D40 of the seed: `/` in the container must look as the image made it.
    async fn top_directory_is_the_parents(self) {
        use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
        let mounts = self.prepare("active", "").await.expect("prepare");
        self.inside(&mounts, |root| {
            let top = inside(root, ".");
            chown(&top, Some(1000), Some(1001)).expect("chown");
            fs::set_permissions(&top, fs::Permissions::from_mode(0o1751)).expect("chmod");
        });
        self.commit("base", "active").await.expect("commit");
        for (key, mounts) in [
            ("child", self.prepare("child", "base").await.expect("prepare")),
            ("view", self.view("view", "base").await.expect("view")),
        ] {
            let about = self.inside(&mounts, |root| fs::metadata(inside(root, ".")).expect("stat"));
            let seen = (about.uid(), about.gid(), about.mode() & 0o7777);
            assert_eq!(seen, (1000, 1001, 0o1751), "{key}");
        }
    }

    async fn usage(self) {
        let mounts = self.prepare("active", "").await.expect("prepare");
        self.write(&mounts, &[("file", &"x".repeat(100_000))]);
        let measure = |key: &str| Measure { namespace: self.namespace.clone(), key: key.into() };
        let active = self.link.send(measure("active")).await.expect("usage");
        assert!(active.size >= 100_000 && active.inodes >= 2, "{active:?}");
        self.commit("committed", "active").await.expect("commit");
        let committed = self.link.send(measure("committed")).await.expect("usage");
        assert_eq!(committed, active);
        assert_eq!(class(self.link.send(measure("nothing")).await), Class::NotFound);
    }

    async fn pages(self) {
        for number in 0..5 {
            self.prepare(&format!("k{number}"), "").await.expect("prepare");
        }
        let mut after = String::new();
        let mut keys = Vec::new();
        loop {
            let page = Page { after, limit: 2, ..Page::default() };
            let message = List { namespace: self.namespace.clone(), page };
            let listed = self.link.send(message).await.expect("list");
            keys.extend(listed.items.into_iter().map(|info| info.key));
            after = listed.next;
            if after.is_empty() {
                break;
            }
        }
        assert_eq!(keys.join(" "), "k0 k1 k2 k3 k4");
    }

    async fn one_winner_per_key(self) {
        let tries = futures::future::join_all((0..16).map(|_| self.prepare("key", ""))).await;
        assert_eq!(tries.iter().filter(|outcome| outcome.is_ok()).count(), 1);
        for outcome in tries {
            assert!(outcome.is_ok() || class(outcome) == Class::AlreadyExists);
        }
        self.remove("key").await.expect("remove");
    }

    /// An unpack marks its drafts, and what still has the mark after a crash is swept.
    async fn labels_of_a_key_end_with_it(self) {
        let labels = |name: &str| Labels::from([(name.to_owned(), "1".to_owned())]);
        let prepare = Prepare {
            namespace: self.namespace.clone(),
            key: "key".into(),
            parent: String::new(),
            labels: labels("draft"),
        };
        self.link.send(prepare).await.expect("prepare");
        assert_eq!(self.info("key").await.expect("stat").labels, labels("draft"));
        let commit = Commit {
            namespace: self.namespace.clone(),
            name: "name".into(),
            key: "key".into(),
            rebase: None,
            labels: labels("final"),
        };
        self.link.send(commit).await.expect("commit");
        assert_eq!(self.info("name").await.expect("stat").labels, labels("final"));
    }

    async fn rebase(self) {
        self.layer("base", "", &[("one", "1")]).await;
        let mounts = self.prepare("layer", "").await.expect("prepare");
        self.write(&mounts, &[("two", "2")]);
        let commit = Commit {
            namespace: self.namespace.clone(),
            name: "top".into(),
            key: "layer".into(),
            rebase: Some("base".into()),
            labels: Labels::new(),
        };
        let abilities = self.link.send(Ask).await.expect("ask");
        if !abilities.can_rebase {
            assert_eq!(class(self.link.send(commit).await), Class::Unimplemented);
            return;
        }
        let onto = |parent: &str| Commit { rebase: Some(parent.into()), ..commit.clone() };
        assert_eq!(class(self.link.send(onto("nothing")).await), Class::NotFound);
        assert_eq!(class(self.link.send(onto("layer")).await), Class::InvalidArgument);
        self.link.send(commit.clone()).await.expect("rebase");
        assert_eq!(self.info("top").await.expect("stat").parent, "base");
        let view = self.view("view", "top").await.expect("view");
        assert_eq!(self.read(&view), "one=1 two=2");
        assert_eq!(class(self.remove("base").await), Class::FailedPrecondition);
        self.prepare("child", "base").await.expect("prepare");
        let again = Commit { name: "again".into(), key: "child".into(), ..onto("top") };
        assert_eq!(class(self.link.send(again).await), Class::InvalidArgument);
    }

    /// Layers that are not committed are seen on each other, and committed on each other at once.
    async fn chained(self) {
        self.layer("base", "", &[("one", "1"), ("two", "1")]).await;
        for (key, file) in [("key-mid", "two"), ("key-top", "three")] {
            let mounts = self.prepare(key, "").await.expect("prepare");
            self.write(&mounts, &[(file, key)]);
        }
        self.prepare("child", "base").await.expect("prepare");
        let stack = |layers: &[(&str, &str)]| {
            let layer =
                |&(key, name): &(&str, &str)| StackLayer { key: key.into(), name: name.into() };
            let layers = layers.iter().map(layer).collect();
            self.link.send(Stack { namespace: self.namespace.clone(), layers })
        };
        let onto = |name: &str, key: &str, parent: &str| Commit {
            namespace: self.namespace.clone(),
            name: name.into(),
            key: key.into(),
            rebase: Some(parent.into()),
            labels: Labels::new(),
        };
        let chain = |commits: &[Commit]| self.link.send(CommitChain(commits.to_vec()));
        let layers = [("key-top", "top"), ("key-mid", "mid"), ("base", "base")];
        let commits = [onto("mid", "key-mid", "base"), onto("top", "key-top", "mid")];
        if !self.link.send(Ask).await.expect("ask").can_chain {
            assert_eq!(class(stack(&layers).await), Class::Unimplemented);
            assert_eq!(class(chain(&commits).await), Class::Unimplemented);
            return;
        }
        assert_eq!(class(stack(&[]).await), Class::InvalidArgument);
        assert_eq!(class(stack(&[("nothing", "neither")]).await), Class::NotFound);
        assert_eq!(class(stack(&[("child", "child")]).await), Class::InvalidArgument);
        let all = "one=1 three=key-top two=key-mid";
        assert_eq!(self.read(&stack(&layers).await.expect("stack")), all);
        assert_eq!(self.read(&stack(&layers[2..]).await.expect("stack")), "one=1 two=1");

        let wrong = [commits[0].clone(), onto("top", "key-top", "nothing")];
        assert_eq!(class(chain(&wrong).await), Class::NotFound);
        let upwards = [commits[1].clone(), commits[0].clone()];
        assert_eq!(class(chain(&upwards).await), Class::NotFound);
        let twice = [commits[0].clone(), onto("mid", "key-top", "base")];
        assert_eq!(class(chain(&twice).await), Class::AlreadyExists);
        let again = [commits[0].clone(), onto("top", "key-mid", "mid")];
        assert_eq!(class(chain(&again).await), Class::FailedPrecondition);
        let other = Commit {
            namespace: Namespace::parse("elsewhere").expect("a name"),
            ..commits[1].clone()
        };
        assert_eq!(class(chain(&[commits[0].clone(), other]).await), Class::InvalidArgument);
        assert_eq!(self.keys().await, "base child key-mid key-top", "all or none");

        chain(&[]).await.expect("nothing");
        chain(&commits).await.expect("commit");
        assert_eq!(self.keys().await, "base child mid top");
        assert_eq!(self.info("top").await.expect("stat").parent, "mid");
        assert_eq!(self.info("mid").await.expect("stat").parent, "base");
        let view = self.view("view", "top").await.expect("view");
        assert_eq!(self.read(&view), all);
        assert_eq!(self.read(&stack(&layers).await.expect("by its name now")), all);
        assert_eq!(class(self.remove("mid").await), Class::FailedPrecondition);
    }
}

async fn namespaces_are_apart(one: Suite, two: Suite) {
    assert_eq!(two.keys().await, "", "an unknown namespace is empty");
    one.layer("base", "", &[("file", "one")]).await;
    assert_eq!(class(two.info("base").await), Class::NotFound);
    assert_eq!(class(two.prepare("x", "base").await), Class::NotFound);
    two.layer("base", "", &[("file", "two")]).await;
    let view = one.view("view", "base").await.expect("view");
    assert_eq!(one.read(&view), "file=one");
}
