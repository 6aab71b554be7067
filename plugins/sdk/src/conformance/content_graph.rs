//! The cases of kind `content` about the ownership graph: labels, uses, collections, audits.

use bytes::Bytes;
use capstan_schema::{Algorithm, Class, Digest, Labels};

use super::content::{Suite, class, digest_of, fill};
use crate::clock;
use crate::contract::content::{Audit, Collect, Label, Nodes, OpenIngest, Orphans, Use};
use crate::contract::graph::{Collected, Node, Resource};

pub(super) fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect()
}

impl Suite {
    async fn nodes(&self) -> Vec<Node> {
        self.link.send(Nodes(self.ns())).await.expect("nodes")
    }

    async fn node(&self, digest: &Digest) -> Node {
        let resource = Resource::Content(digest.clone());
        self.nodes().await.into_iter().find(|node| node.resource == resource).expect("its node")
    }

    async fn collect(&self, digests: &[Digest], unused_since_unix_ns: i64) -> Collected {
        let (namespace, digests) = (self.ns(), digests.to_vec());
        let message = Collect { namespace, digests, unused_since_unix_ns };
        self.link.send(message).await.expect("collect")
    }

    async fn use_(&self, digest: &Digest) -> capstan_schema::Result<()> {
        let message = Use { namespace: self.ns(), digest: digest.clone() };
        self.link.send(message).await.map(drop)
    }

    pub(super) async fn labelled(self) {
        let open = OpenIngest {
            labels: labels(&[("a", "1"), ("b", "2")]),
            ..OpenIngest::new(&self.ns(), "x")
        };
        let writer = self.link.send(open).await.expect("ingest");
        fill(&writer, &self.bytes()).await;
        let (digest, _) = writer.commit(None, 0).await.expect("commit");
        assert_eq!(
            self.stat(&digest).await.expect("stat").labels,
            labels(&[("a", "1"), ("b", "2")]),
            "those that the ingest was opened with"
        );
        let change = Label {
            namespace: self.ns(),
            digest: digest.clone(),
            labels: labels(&[("a", ""), ("c", "3")]),
        };
        let info = self.link.send(change.clone()).await.expect("label");
        assert_eq!(info.labels, labels(&[("b", "2"), ("c", "3")]));
        assert_eq!(self.stat(&digest).await.expect("stat").labels, info.labels);
        // Where the blob is there, they are merged: both ways of finding that out.
        let open = OpenIngest {
            expected: Some(digest.clone()),
            labels: labels(&[("d", "4")]),
            ..OpenIngest::new(&self.ns(), "y")
        };
        assert_eq!(class(self.link.send(open.clone()).await), Class::AlreadyExists);
        let open = OpenIngest { expected: None, labels: labels(&[("e", "5")]), ..open };
        let writer = self.link.send(open).await.expect("ingest");
        fill(&writer, &self.bytes()).await;
        writer.commit(None, 0).await.expect("commit");
        let all = labels(&[("b", "2"), ("c", "3"), ("d", "4"), ("e", "5")]);
        assert_eq!(self.stat(&digest).await.expect("stat").labels, all);
        assert_eq!(self.node(&digest).await.labels, all);
        let change = Label { digest: digest_of(b"no such"), ..change };
        assert_eq!(class(self.link.send(change).await), Class::NotFound);
    }

    pub(super) async fn algorithms_by_choice(self) {
        for algorithm in Algorithm::ALL {
            let open = OpenIngest {
                algorithm: Some(algorithm),
                ..OpenIngest::new(&self.ns(), algorithm.name())
            };
            let writer = self.link.send(open.clone()).await.expect("ingest");
            fill(&writer, b"half").await;
            drop(writer);
            let other = Algorithm::ALL.into_iter().find(|other| *other != algorithm);
            let other = OpenIngest { algorithm: other, ..open.clone() };
            assert_eq!(class(self.patiently(&other).await), Class::FailedPrecondition);
            let any = OpenIngest { algorithm: None, ..open };
            let writer = self.patiently(&any).await.expect("it knows what it was begun with");
            fill(&writer, b"half").await;
            let (digest, size) = writer.commit(None, 0).await.expect("commit");
            assert_eq!((digest.algorithm(), size), (algorithm, 8));
            assert_eq!(self.open(&digest).await.expect("open").size, 8);
        }
        let open = OpenIngest {
            expected: Some(digest_of(b"x")),
            algorithm: Some(Algorithm::Sha512),
            ..OpenIngest::new(&self.ns(), "both")
        };
        assert_eq!(class(self.link.send(open).await), Class::InvalidArgument);
    }

    async fn patiently(
        &self,
        open: &OpenIngest,
    ) -> capstan_schema::Result<crate::contract::content::Ingest> {
        loop {
            match self.link.send(open.clone()).await {
                Err(error) if error.class() == Class::Unavailable => {
                    tokio::task::yield_now().await;
                }
                answer => return answer,
            }
        }
    }

    pub(super) async fn nodes_tell_uses(self) {
        assert!(self.nodes().await.is_empty());
        let before = clock::now_unix_ns();
        let digest = self.store(&self.bytes()).await;
        let node = self.node(&digest).await;
        assert_eq!(node.size, self.bytes().len() as u64);
        assert!(node.root.is_empty() && node.references.is_empty());
        assert!(node.created_at_unix_ns >= before);
        assert!(node.used_at_unix_ns >= node.created_at_unix_ns);
        self.stat(&digest).await.expect("stat");
        self.blobs().await;
        assert_eq!(self.node(&digest).await.used_at_unix_ns, node.used_at_unix_ns, "no use");
        let mut last = node.used_at_unix_ns;
        for what in ["open", "use", "ingest"] {
            let now = clock::now_unix_ns();
            match what {
                "open" => drop(self.open(&digest).await.expect("open")),
                "use" => self.use_(&digest).await.expect("use"),
                _ => assert_eq!(
                    class(self.ingest("y", Some(&digest), 0).await),
                    Class::AlreadyExists
                ),
            }
            let used = self.node(&digest).await.used_at_unix_ns;
            assert!(used >= now && used > last, "{what} is a use");
            last = used;
        }
        // An ingest is a root while it has a writer, and then for another reason, or none.
        let writer = self.ingest("busy", None, 0).await.expect("ingest");
        fill(&writer, b"12345").await;
        let ingest = async || {
            let resource = Resource::Ingest("busy".into());
            let nodes = self.nodes().await;
            nodes.into_iter().find(|node| node.resource == resource).expect("its node")
        };
        let node = ingest().await;
        assert!(!node.root.is_empty());
        assert_eq!(node.size, 5);
        drop(writer);
        while ingest().await.root == node.root {
            tokio::task::yield_now().await;
        }
        drop(self.next("busy", None, 0).await.expect("a look at it is no writer"));
    }

    pub(super) async fn collections(self) {
        let mut stored = Vec::new();
        for number in 0..140 {
            stored.push(self.store(format!("collected {number}").as_bytes()).await);
        }
        let began = clock::now_unix_ns();
        let unknown = digest_of(b"never stored");
        let kept = [stored[0].clone(), stored[1].clone(), stored[2].clone()];
        self.use_(&kept[0]).await.expect("use");
        drop(self.open(&kept[1]).await.expect("open"));
        assert_eq!(self.store(b"collected 2").await, kept[2], "and so is a commit of it");
        let open = self.open(&stored[4]).await.expect("open");
        let began_after = clock::now_unix_ns() + 1;
        while clock::now_unix_ns() <= began_after {}

        let nothing = self.collect(&stored, 1).await;
        assert_eq!(nothing, Collected::default(), "all came after that");
        let wanted: Vec<Digest> = std::iter::once(unknown).chain(stored.clone()).collect();
        let collected = self.collect(&wanted[..1], began).await;
        assert_eq!(collected, Collected::default(), "what is not there is not removed");
        let collected = self.collect(&wanted, began).await;
        assert_eq!(collected.removed.len(), 136, "not the three, and not the one that is open");
        assert!(collected.freed > 136 * 10);
        for digest in &kept {
            assert!(!collected.removed.contains(&digest.to_string()));
            self.open(digest).await.expect("it is kept");
        }
        for digest in &stored[5..] {
            assert_eq!(class(self.stat(digest).await), Class::NotFound);
            assert_eq!(class(self.use_(digest).await), Class::NotFound);
        }
        let later = clock::now_unix_ns() + 1_000_000_000;
        assert_eq!(self.collect(&stored[4..5], later).await.removed.len(), 1);
        assert_eq!(open.read_all(100).expect("what is open stays readable"), b"collected 4");
        assert_eq!(self.store(b"collected 4").await, stored[4], "and it can come again");
    }

    /// At no time is something removed whose use was answered after the collector began to look.
    pub(super) async fn uses_and_collections_race(self) {
        for round in 0..30 {
            let digest = self.store(format!("raced {round}").as_bytes()).await;
            let began = clock::now_unix_ns() + 1;
            while clock::now_unix_ns() <= began {}
            let digests = [digest.clone()];
            let (used, collected) =
                futures::join!(self.use_(&digest), self.collect(&digests, began));
            match used {
                Ok(()) => {
                    assert!(collected.removed.is_empty(), "it was removed after a use");
                    self.open(&digest).await.expect("it is there");
                }
                Err(error) => {
                    assert_eq!(error.class(), Class::NotFound);
                    assert_eq!(collected.removed.len(), 1);
                }
            }
        }
    }

    pub(super) async fn nothing_to_find(self) {
        let digest = self.store(&self.bytes()).await;
        let writer = self.ingest("busy", None, 0).await.expect("ingest");
        for (is_full, is_cleaning) in [(false, false), (true, false), (true, true)] {
            let findings = self.link.send(Audit { is_full, is_cleaning }).await.expect("audit");
            assert!(findings.is_empty(), "{findings:?}");
        }
        for is_removing in [false, true] {
            let orphans = self.link.send(Orphans { is_removing }).await.expect("orphans");
            assert!(orphans.is_empty(), "{orphans:?}");
        }
        self.open(&digest).await.expect("open");
        writer.write(Bytes::from_static(b"x")).await.expect("write");
        writer.abort().await.expect("abort");
    }
}

/// A blob that another namespace has frees nothing, and stays there.
pub(super) async fn shared_bytes_are_collected_last(one: Suite, two: Suite) {
    let bytes = one.bytes();
    let digest = one.store(&bytes).await;
    assert_eq!(two.store(&bytes).await, digest);
    let later = clock::now_unix_ns() + 1_000_000_000;
    let collected = one.collect(std::slice::from_ref(&digest), later).await;
    assert_eq!((collected.removed.len(), collected.freed), (1, 0));
    assert_eq!(class(one.stat(&digest).await), Class::NotFound);
    assert_eq!(two.open(&digest).await.expect("open").read_all(100).expect("read"), bytes);
    let collected = two.collect(std::slice::from_ref(&digest), later).await;
    assert_eq!((collected.removed.len(), collected.freed), (1, bytes.len() as u64));
}
