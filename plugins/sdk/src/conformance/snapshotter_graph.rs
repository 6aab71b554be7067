//! The cases of kind `snapshotter` about the ownership graph: labels, uses, collections, usage, audits.

use std::fs;

use capstan_schema::{Class, Labels};

use super::snapshotter::{Suite, class, inside};
use crate::clock;
use crate::contract::graph::{Collected, Node, Resource};
use crate::contract::snapshotter::{
    Ask, Audit, Collect, Commit, Kind, Label, Measure, Nodes, OwnLayer, Use,
};

impl Suite {
    async fn nodes(&self) -> Vec<Node> {
        self.link.send(Nodes(self.namespace.clone())).await.expect("nodes")
    }

    async fn node(&self, key: &str) -> Node {
        let nodes = self.nodes().await;
        let is_it =
            |node: &&Node| matches!(&node.resource, Resource::Snapshot { key: k, .. } if k == key);
        nodes.iter().find(is_it).expect("its node").clone()
    }

    async fn collect(&self, keys: &[&str], unused_since_unix_ns: i64) -> Collected {
        let keys = keys.iter().map(|&key| key.to_owned()).collect();
        let message = Collect { namespace: self.namespace.clone(), keys, unused_since_unix_ns };
        self.link.send(message).await.expect("collect")
    }

    async fn use_(&self, key: &str) -> capstan_schema::Result<()> {
        let message = Use { namespace: self.namespace.clone(), key: key.into() };
        self.link.send(message).await.map(drop)
    }

    pub(super) async fn labelled(self) {
        let labels = |pairs: &[(&str, &str)]| -> Labels {
            pairs.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect()
        };
        let set = |key: &str, pairs: &[(&str, &str)]| Label {
            namespace: self.namespace.clone(),
            key: key.into(),
            labels: labels(pairs),
        };
        self.layer("base", "", &[]).await;
        for key in ["base", "active"] {
            if key == "active" {
                self.prepare(key, "base").await.expect("prepare");
            }
            self.link.send(set(key, &[("a", "1"), ("b", "2")])).await.expect("label");
            let info = self.link.send(set(key, &[("a", ""), ("c", "3")])).await.expect("label");
            assert_eq!(info.labels, labels(&[("b", "2"), ("c", "3")]));
            assert!(info.updated_at_unix_ns >= info.created_at_unix_ns);
            assert_eq!(self.info(key).await.expect("stat").labels, info.labels);
            assert_eq!(self.node(key).await.labels, info.labels);
        }
        assert_eq!(class(self.link.send(set("nothing", &[("a", "1")])).await), Class::NotFound);
    }

    /// A label or a look at the graph that comes between does not fail a commit.
    pub(super) async fn commits_and_labels_race(self) {
        for round in 0..8 {
            let (key, name) = (format!("key-{round}"), format!("name-{round}"));
            self.prepare(&key, "").await.expect("prepare");
            let label = Label {
                namespace: self.namespace.clone(),
                key: key.clone(),
                labels: Labels::from([("a".into(), "1".into())]),
            };
            let (committed, labelled, _) =
                futures::join!(self.commit(&name, &key), self.link.send(label), self.nodes());
            committed.expect("commit");
            assert!(labelled.is_ok() || class(labelled) == Class::NotFound);
            assert_eq!(self.info(&name).await.expect("stat").kind, Kind::Committed);
        }
    }

    pub(super) async fn nodes_tell_uses(self) {
        assert!(self.nodes().await.is_empty());
        let before = clock::now_unix_ns();
        self.layer("base", "", &[("file", &"x".repeat(50_000))]).await;
        self.layer("top", "base", &[]).await;
        let (base, top) = (self.node("base").await, self.node("top").await);
        assert!(base.created_at_unix_ns >= before);
        assert!(base.used_at_unix_ns >= base.created_at_unix_ns);
        assert!(base.size >= 50_000);
        assert!(base.root.is_empty() && base.references.is_empty());
        assert_eq!(top.references, [base.resource]);
        self.info("base").await.expect("stat");
        self.keys().await;
        assert_eq!(self.node("top").await.used_at_unix_ns, top.used_at_unix_ns, "no use");
        for what in ["prepare", "view", "use"] {
            let now = clock::now_unix_ns();
            match what {
                "prepare" => drop(self.prepare("active", "top").await.expect("prepare")),
                "view" => drop(self.view("view", "top").await.expect("view")),
                _ => self.use_("top").await.expect("use"),
            }
            assert!(self.node("top").await.used_at_unix_ns >= now, "{what} is a use");
        }
        let now = clock::now_unix_ns();
        self.mounts("view").await.expect("mounts");
        assert!(self.node("view").await.used_at_unix_ns >= now, "of what is mounted, too");
        for key in ["active", "view"] {
            assert!(!self.node(key).await.root.is_empty(), "{key} is kept by itself");
        }
        assert_eq!(class(self.use_("nothing").await), Class::NotFound);
    }

    pub(super) async fn collections(self) {
        self.layer("a", "", &[("file", &"x".repeat(50_000))]).await;
        self.layer("b", "a", &[]).await;
        self.layer("c", "b", &[]).await;
        self.layer("other", "", &[]).await;
        let before = self.nodes().await.len();
        let nothing = self.collect(&["c", "b", "a", "other"], 1).await;
        assert_eq!(nothing, Collected::default(), "all came after that");
        let since = clock::now_unix_ns() + 1;
        while clock::now_unix_ns() <= since {}
        assert!(self.collect(&["a"], since).await.removed.is_empty(), "it has children");
        self.view("view", "c").await.expect("view");
        assert!(self.collect(&["c", "b", "a"], since).await.removed.is_empty(), "it is stood on");
        assert_eq!(self.nodes().await.len(), before + 1);
        self.remove("view").await.expect("remove");
        let since = clock::now_unix_ns() + 1;
        while clock::now_unix_ns() <= since {}
        self.use_("other").await.expect("use");
        let collected = self.collect(&["nothing", "c", "b", "a", "other"], since).await;
        assert_eq!(collected.removed, ["c", "b", "a"], "children before their parents");
        assert!(collected.freed >= 50_000);
        assert_eq!(self.keys().await, "other");
        for key in ["a", "b", "c"] {
            assert_eq!(class(self.use_(key).await), Class::NotFound);
        }
        self.layer("a", "", &[]).await;
    }

    /// What was prepared on a layer after a collector began keeps it, whoever is faster.
    pub(super) async fn uses_and_collections_race(self) {
        for round in 0..8 {
            let (name, child) = (format!("base-{round}"), format!("child-{round}"));
            self.layer(&name, "", &[("file", "text")]).await;
            let began = clock::now_unix_ns() + 1;
            while clock::now_unix_ns() <= began {}
            let keys = [name.as_str()];
            let (prepared, collected) =
                futures::join!(self.prepare(&child, &name), self.collect(&keys, began));
            match prepared {
                Ok(mounts) => {
                    assert!(collected.removed.is_empty(), "it was removed below a child");
                    assert_eq!(self.read(&mounts), "file=text");
                }
                Err(error) => {
                    assert_eq!(error.class(), Class::NotFound);
                    assert_eq!(collected.removed, keys);
                }
            }
        }
    }

    /// Each inode once, and for a committed one measured once.
    pub(super) async fn usage_counts_once(self) {
        let mounts = self.prepare("active", "").await.expect("prepare");
        self.write(&mounts, &[("file", &"x".repeat(100_000))]);
        let measure = async |key: &str| {
            let message = Measure { namespace: self.namespace.clone(), key: key.into() };
            self.link.send(message).await.expect("usage")
        };
        let before = measure("active").await;
        self.inside(&mounts, |root| {
            fs::hard_link(inside(root, "file"), inside(root, "link")).expect("link");
        });
        let after = measure("active").await;
        assert_eq!(after.inodes, before.inodes);
        assert!(after.size < before.size + 50_000, "{before:?} {after:?}");
        self.commit("base", "active").await.expect("commit");
        assert_eq!(measure("base").await, after);
        assert_eq!(measure("base").await, after, "and again");
        assert_eq!(self.node("base").await.size, after.size);
        self.view("view", "base").await.expect("view");
    }

    /// The fixture of the seed's metadata suite: seven snapshots, walked as an exact set.
    pub(super) async fn seven(self) {
        self.layer("committed-1", "", &[]).await;
        self.layer("committed-2", "committed-1", &[]).await;
        for (key, parent) in
            [("active-1", ""), ("active-2", "committed-1"), ("active-3", "committed-2")]
        {
            let mounts = self.prepare(key, parent).await.expect("prepare");
            assert_eq!(self.mounts(key).await.expect("mounts"), mounts, "as create answered");
        }
        self.view("active-4", "").await.expect("view");
        self.view("active-5", "committed-2").await.expect("view");
        let want = "active-1 active-2 active-3 active-4 active-5 committed-1 committed-2";
        assert_eq!(self.keys().await, want);
        for (key, parent, kind) in [
            ("committed-1", "", Kind::Committed),
            ("committed-2", "committed-1", Kind::Committed),
            ("active-1", "", Kind::Active),
            ("active-2", "committed-1", Kind::Active),
            ("active-3", "committed-2", Kind::Active),
            ("active-4", "", Kind::View),
            ("active-5", "committed-2", Kind::View),
        ] {
            let info = self.info(key).await.expect("stat");
            assert_eq!((info.parent.as_str(), info.kind), (parent, kind), "{key}");
        }
        for key in ["committed-1", "committed-2"] {
            assert_eq!(class(self.remove(key).await), Class::FailedPrecondition);
            assert_eq!(class(self.remove(key).await), Class::FailedPrecondition, "and again");
        }
        for key in ["active-1", "active-2", "active-3", "active-4", "active-5", "committed-2"] {
            self.remove(key).await.expect("remove");
            assert_eq!(class(self.remove(key).await), Class::NotFound);
        }
        assert_eq!(self.keys().await, "committed-1");
    }

    /// Ten layers, each of which adds, changes and removes.
    pub(super) async fn a_chain(self) {
        let mut parent = String::new();
        for number in 0..10 {
            let key = format!("key-{number}");
            let mounts = self.prepare(&key, &parent).await.expect("prepare");
            self.inside(&mounts, |root| {
                fs::write(inside(root, "last"), number.to_string()).expect("change");
                fs::create_dir_all(inside(root, "dir")).expect("mkdir");
                fs::write(inside(root, &format!("dir/{number}")), "x").expect("add");
                if number > 0 {
                    let before = inside(root, &format!("dir/{}", number - 1));
                    fs::remove_file(before).expect("remove");
                }
                if number == 7 {
                    fs::remove_dir_all(inside(root, "dir")).expect("remove all");
                    fs::create_dir(inside(root, "dir")).expect("an opaque one");
                    fs::write(inside(root, "dir/7"), "x").expect("add");
                }
            });
            parent = format!("layer-{number}");
            self.commit(&parent, &key).await.expect("commit");
        }
        let view = self.view("view", &parent).await.expect("view");
        assert_eq!(self.read(&view), "dir/9=x last=9");
        let view = self.view("middle", "layer-4").await.expect("view");
        assert_eq!(self.read(&view), "dir/4=x last=4");
    }

    pub(super) async fn own_layers(self) {
        let own = |key: &str| OwnLayer { namespace: self.namespace.clone(), key: key.into() };
        self.layer("base", "", &[("one", "1")]).await;
        let mounts = self.prepare("active", "base").await.expect("prepare");
        self.write(&mounts, &[("two", "2")]);
        let layer = self.link.send(own("active")).await.expect("own layer");
        let files = self.read(&layer);
        let abilities = self.link.send(Ask).await.expect("ask");
        assert_eq!(files, if abilities.can_rebase { "two=2" } else { "one=1 two=2" });
        self.write(&layer, &[("three", "3")]);
        match self.link.send(own("base")).await {
            Ok(layer) => {
                assert_eq!(self.read(&layer), "one=1");
                self.write(&layer, &[("one", "mended")]);
                let view = self.view("view", "base").await.expect("view");
                assert_eq!(self.read(&view), "one=mended");
            }
            Err(error) => assert_eq!(error.class(), Class::Unimplemented),
        }
        assert_eq!(class(self.link.send(own("nothing")).await), Class::NotFound);
    }

    pub(super) async fn nothing_to_find(self) {
        self.layer("base", "", &[("file", "1")]).await;
        self.layer("top", "base", &[("file", "2")]).await;
        self.prepare("active", "top").await.expect("prepare");
        self.view("view", "top").await.expect("view");
        self.view("empty", "").await.expect("view");
        for (is_full, is_cleaning) in [(false, false), (true, false), (true, true)] {
            let message = Audit { is_full, is_cleaning };
            let findings = self.link.send(message).await.expect("audit");
            assert!(findings.is_empty(), "{findings:?}");
        }
        let view = self.view("after", "top").await.expect("view");
        assert_eq!(self.read(&view), "file=2");
    }

    /// Layers that are unpacked at the same time, and put on each other in order.
    pub(super) async fn rebased_in_order(self) {
        if !self.link.send(Ask).await.expect("ask").can_rebase {
            return;
        }
        for number in 0..4 {
            let mounts = self.prepare(&format!("key-{number}"), "").await.expect("prepare");
            let name = format!("file-{number}");
            self.write(&mounts, &[(name.as_str(), "x"), ("same", &number.to_string())]);
        }
        let mut parent = String::new();
        for number in 0..4 {
            let name = format!("layer-{number}");
            let commit = Commit {
                namespace: self.namespace.clone(),
                name: name.clone(),
                key: format!("key-{number}"),
                rebase: Some(parent),
                labels: Labels::new(),
            };
            self.link.send(commit).await.expect("rebase");
            parent = name;
        }
        let view = self.view("view", &parent).await.expect("view");
        assert_eq!(self.read(&view), "file-0=x file-1=x file-2=x file-3=x same=3");
        for number in 0..3 {
            let outcome = self.remove(&format!("layer-{number}")).await;
            assert_eq!(class(outcome), Class::FailedPrecondition);
        }
    }
}
