//! The ownership graph: what there is in a namespace, and what keeps it.
//!
//! Each kind that owns something answers `Nodes`: one [`Node`] for each of its things, with what that
//! references. Garbage collection, `why`, `df` and the audit walk over these and know nothing else of the
//! owners. A thing is kept while a root reaches it.
//!
//! The race between a look at the graph and a new use is settled by time, not by locks: an owner notes
//! when a thing was last used (`Use`, `Open`, `Prepare`, a commit that names it), and `Collect` removes
//! only what was not used since the collector began to look. An operation that is under way holds
//! (`leases::Hold`), and what was used since it began is kept as well.

use std::fmt;
use std::str::FromStr;

use capstan_schema::{Digest, Error, Labels, Namespace, Result};

/// A label that keeps what has it, whatever its value.
pub const LABEL_ROOT: &str = "capstan/gc.root";

/// A label with an RFC 3339 time: until then it keeps what has it.
pub const LABEL_EXPIRE: &str = "capstan/gc.expire";

/// The beginning of labels whose value is a digest: what has one keeps that content. More than one are told apart
/// by what follows: `capstan/gc.ref.content.config`.
pub const LABEL_CONTENT: &str = "capstan/gc.ref.content";

/// The beginning of labels `capstan/gc.ref.snapshot.<snapshotter>[/<more>]` whose value is a key: what
/// has one keeps that snapshot.
pub const LABEL_SNAPSHOT: &str = "capstan/gc.ref.snapshot.";

/// Something that is owned, by its name in a namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Resource {
    /// `content/<digest>`
    Content(Digest),
    /// `ingest/<ref>`
    Ingest(String),
    /// `snapshot/<snapshotter>/<key>`
    Snapshot {
        /// Without its kind: `overlay`. `*` in a reference: of all snapshotters.
        snapshotter: String,
        /// Key or name.
        key: String,
    },
    /// `image/<name>`
    Image(String),
    /// `container/<id>`
    Container(String),
    /// `lease/<id>`
    Lease(String),
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Content(digest) => write!(f, "content/{digest}"),
            Self::Ingest(reference) => write!(f, "ingest/{reference}"),
            Self::Snapshot { snapshotter, key } => write!(f, "snapshot/{snapshotter}/{key}"),
            Self::Image(name) => write!(f, "image/{name}"),
            Self::Container(id) => write!(f, "container/{id}"),
            Self::Lease(id) => write!(f, "lease/{id}"),
        }
    }
}

impl FromStr for Resource {
    type Err = Error;

    /// `InvalidArgument`: it is none of the forms.
    fn from_str(text: &str) -> Result<Self> {
        let wrong = || {
            Error::invalid(format!(
                "{text:?} is no resource: write content/DIGEST, snapshot/SNAPSHOTTER/KEY, image/NAME, \
                 container/ID, lease/ID or ingest/REF"
            ))
        };
        let (kind, name) =
            text.split_once('/').filter(|(_, name)| !name.is_empty()).ok_or_else(wrong)?;
        Ok(match kind {
            "content" => Self::Content(Digest::parse(name)?),
            "ingest" => Self::Ingest(name.into()),
            "snapshot" => match name.split_once('/') {
                Some((snapshotter, key)) if !snapshotter.is_empty() && !key.is_empty() => {
                    Self::Snapshot { snapshotter: snapshotter.into(), key: key.into() }
                }
                _ => return Err(wrong()),
            },
            "image" => Self::Image(name.into()),
            "container" => Self::Container(name.into()),
            "lease" => Self::Lease(name.into()),
            _ => return Err(wrong()),
        })
    }
}

/// One thing, as its owner sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub resource: Resource,
    /// What it keeps. What is not there is fine, and is the audit's matter.
    pub references: Vec<Resource>,
    /// Why it is kept by itself; empty = it is not.
    pub root: String,
    /// Bytes that go with it.
    pub size: u64,
    /// When it was made.
    pub created_at_unix_ns: i64,
    /// When it was last of use, as far as that is known; at least when it was made.
    pub used_at_unix_ns: i64,
    /// Its own. Those that begin as the constants above count as references, and need not be in `references`.
    pub labels: Labels,
}

/// What is wrong with something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Flaw {
    /// It has a name and its bytes are not there, or something that it needs is not.
    Missing,
    /// Its bytes are not what they must be.
    Damaged,
    /// Bytes that nothing names.
    Orphan,
    /// A mount, process or file that an operation left behind.
    Leftover,
}

impl Flaw {
    /// The word that users see.
    pub fn name(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Damaged => "damaged",
            Self::Orphan => "orphan",
            Self::Leftover => "leftover",
        }
    }
}

/// One thing that an audit found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// `None`: it is of no namespace, or of none that is known.
    pub namespace: Option<Namespace>,
    /// What: a [`Resource`], or a path.
    pub what: String,
    /// What is wrong.
    pub flaw: Flaw,
    /// More about it, for people.
    pub detail: String,
}

/// What a `Collect` did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// Those of the asked-for names that are gone now. The others were used meanwhile, or cannot go.
    pub removed: Vec<String>,
    /// Bytes that went with them.
    pub freed: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resources_are_read_as_they_are_written() {
        let digest = format!("sha256:{}", "0".repeat(64));
        for text in [
            &format!("content/{digest}"),
            "ingest/layer-1",
            "snapshot/overlay/a/b",
            "image/host/path:tag",
            "container/web",
            "lease/l1",
        ] {
            assert_eq!(text.parse::<Resource>().unwrap().to_string(), *text);
        }
        for text in [
            "",
            "content/",
            "content/x",
            "snapshot/overlay",
            "snapshot//k",
            "snapshot/o/",
            "web",
            "pod/x",
        ] {
            assert!(text.parse::<Resource>().is_err(), "{text}");
        }
    }
}
