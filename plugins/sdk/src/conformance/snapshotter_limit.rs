//! The suite of kind `snapshotter`: limits of what an active snapshot takes.

use std::fs::File;
use std::io::{ErrorKind, Write as _};

use capstan_schema::{Class, Labels, Mount, Result};

use super::snapshotter::{Suite, class, inside};
use crate::contract::snapshotter::{Ask, Commit, LABEL_SIZE, Label, Prepare, View};

/// The limit of the cases, in MiB.
const LIMIT_MIB: usize = 8;

fn size(text: &str) -> Labels {
    Labels::from([(LABEL_SIZE.into(), text.into())])
}

impl Suite {
    async fn prepare_limited(&self, key: &str, parent: &str, text: &str) -> Result<Vec<Mount>> {
        let (key, parent, labels) = (key.into(), parent.into(), size(text));
        self.link.send(Prepare { namespace: self.namespace.clone(), key, parent, labels }).await
    }

    async fn relabel(&self, key: &str, text: &str) -> Result<()> {
        let (key, labels) = (key.into(), size(text));
        let label = Label { namespace: self.namespace.clone(), key, labels };
        self.link.send(label).await.map(drop)
    }

    /// Writes MiB after MiB to a file until the file system wants no more of it; at most `most`. Answers how many it took.
    fn fill(&self, mounts: &[Mount], name: &str, most: usize) -> usize {
        self.inside(mounts, |root| {
            let mut file = File::create(inside(root, name)).expect("create");
            let chunk = vec![7; 1 << 20];
            for done in 0..most {
                if let Err(error) = file.write_all(&chunk).and_then(|()| file.sync_data()) {
                    let full = [ErrorKind::QuotaExceeded, ErrorKind::StorageFull];
                    assert!(full.contains(&error.kind()), "{error}");
                    return done;
                }
            }
            most
        })
    }

    /// A limit is kept, or it is said that it is not; and what makes no sense is refused. Answers whether it is kept.
    pub(super) async fn limits(self) -> bool {
        let can_limit = self.link.send(Ask).await.expect("ask").can_limit;
        self.layer("base", "", &[("file", "base")]).await;
        let limit = format!("{LIMIT_MIB}m");
        let limited = self.prepare_limited("limited", "base", &limit).await;
        let Ok(mounts) = limited else {
            // Before anything was made.
            assert_eq!(class(limited), Class::Unimplemented);
            assert_eq!(
                class(self.prepare_limited("limited", "gone", &limit).await),
                Class::Unimplemented
            );
            assert_eq!(self.keys().await, "base");
            self.prepare("free", "base").await.expect("without a limit");
            assert_eq!(class(self.relabel("free", &limit).await), Class::Unimplemented);
            assert!(self.info("free").await.expect("stat").labels.is_empty());
            return false;
        };
        assert!(can_limit, "it was not said before");
        for text in ["", "0", "much", "-1", "10 m"] {
            let refused = self.prepare_limited("bad", "base", text).await;
            assert_eq!(class(refused), Class::InvalidArgument, "{text:?}");
            if !text.is_empty() {
                assert_eq!(class(self.relabel("limited", text).await), Class::InvalidArgument);
            }
        }
        let view = View {
            namespace: self.namespace.clone(),
            key: "view".into(),
            parent: "base".into(),
            labels: size(&limit),
        };
        assert_eq!(class(self.link.send(view).await), Class::InvalidArgument);
        assert_eq!(class(self.relabel("base", &limit).await), Class::FailedPrecondition);
        assert_eq!(self.keys().await, "base limited");

        assert_eq!(self.info("limited").await.expect("stat").labels, size(&limit));
        let took = self.fill(&mounts, "much", 3 * LIMIT_MIB);
        assert!((LIMIT_MIB - 2..=LIMIT_MIB).contains(&took), "{took} MiB of {LIMIT_MIB}");
        let free = self.prepare("free", "base").await.expect("prepare");
        assert_eq!(
            self.fill(&free, "much", 2 * LIMIT_MIB),
            2 * LIMIT_MIB,
            "others are not limited"
        );

        self.relabel("limited", &format!("{}m", LIMIT_MIB + 4)).await.expect("a larger limit");
        let more = self.fill(&self.mounts("limited").await.expect("mounts"), "more", LIMIT_MIB);
        assert!((2..=5).contains(&more), "{more} MiB more");
        self.relabel("limited", "").await.expect("no limit");
        assert!(self.info("limited").await.expect("stat").labels.is_empty());
        assert_eq!(self.fill(&mounts, "most", LIMIT_MIB), LIMIT_MIB);
        self.relabel("limited", &limit).await.expect("a limit that it is beyond already");

        let commit = |labels| Commit {
            namespace: self.namespace.clone(),
            name: "done".into(),
            key: "limited".into(),
            rebase: None,
            labels,
        };
        assert_eq!(class(self.link.send(commit(size("1g"))).await), Class::InvalidArgument);
        self.link.send(commit(Labels::new())).await.expect("commit");
        assert!(self.info("done").await.expect("stat").labels.is_empty());
        let child = self.prepare("child", "done").await.expect("prepare");
        assert_eq!(self.fill(&child, "much", LIMIT_MIB), LIMIT_MIB, "the limit ended");
        for key in ["child", "free", "done", "base"] {
            self.remove(key).await.expect("remove");
        }
        true
    }
}
