//! gc: what goes when nothing keeps it, and questions to the ownership graph.

use std::collections::BTreeMap;

use capstan_schema::Namespace;

use crate::contract::access::Access;
use crate::contract::graph::{Finding, Resource};

/// Removes what no root reaches, as far as the policy lets it go. Two at once: the second waits for the first and
/// has the answer of a run of its own.
///
/// `Unavailable`: an owner does not answer; nothing is removed then. Cancel safety: what was begun is carried out.
#[derive(Clone, Debug)]
pub struct Collect {
    /// `None` = all namespaces, and the blobs that are in none.
    pub namespace: Option<Namespace>,
    /// Only tells what would go.
    pub is_dry: bool,
}

/// Something that went, or would go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removed {
    /// Where it was. `None`: in no namespace: a blob whose record a crash has cost, an ingest whose namespace is gone.
    pub namespace: Option<Namespace>,
    /// What it was.
    pub resource: Resource,
    /// Bytes that went with it. A blob that another namespace has too counts 0.
    pub size: u64,
}

/// What a collection did.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// In the order in which it went.
    pub removed: Vec<Removed>,
    /// Bytes that are free now.
    pub freed: u64,
    /// Things that are kept because a root reaches them.
    pub kept: u64,
    /// Things that no root reaches, and the policy spares.
    pub spared: u64,
    /// From the first look to the last removal.
    pub took_ns: u64,
    /// The longest time for which the collector kept one owner busy in one piece.
    pub longest_pause_ns: u64,
}

/// Asks why something is kept: one chain for each root that reaches it, the nearest first, at most 32.
///
/// `NotFound`: there is no such thing.
#[derive(Clone, Debug)]
pub struct Why {
    /// Where.
    pub namespace: Namespace,
    /// What: a [`Resource`]; or what people have at hand: a digest, an image's name, a container's id, a snapshot's key.
    pub what: String,
}

/// A way from a root to the thing: each keeps the next. The first entry says in `why` what makes it a root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Root first, the thing itself last.
    pub links: Vec<String>,
    /// What makes the first one a root.
    pub root: String,
}

/// Asks what takes how much room.
#[derive(Clone, Debug)]
pub struct Usage(
    /// `None` = all namespaces.
    pub Option<Namespace>,
);

/// Room that one kind of thing takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Room {
    /// How many there are.
    pub count: u64,
    /// Bytes. What several namespaces share counts once.
    pub size: u64,
    /// Of these, how many a collection would remove.
    pub reclaimable: u64,
    /// Bytes that would go with them.
    pub reclaimable_size: u64,
}

/// Checks all that is stored against itself. With `is_full` every byte is read and hashed, and what is
/// damaged loses its name until it is healed.
#[derive(Clone, Debug)]
pub struct Audit {
    /// Read and hash all bytes.
    pub is_full: bool,
}

/// Repairs what an audit finds: removes orphans and leftovers, fetches damaged or missing blobs again, puts
/// damaged files of layers back from their blobs.
#[derive(Clone, Debug)]
pub struct Heal {
    /// Read and hash all bytes first.
    pub is_full: bool,
    /// As whom registries are asked.
    pub access: Access,
}

/// What became of one finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Healed {
    /// What was found.
    pub finding: Finding,
    /// What was done; or why nothing could be, and what to do.
    pub outcome: std::result::Result<String, String>,
}

/// When a collection last ran, and what it did.
#[derive(Clone, Debug)]
pub struct Last;

crate::contract! {
    /// The contract of kind `gc`.
    Gc ("gc") as GcAddr {
        collect: Collect => Report [lasting],
        last: Last => Option<(i64, Report)> [again],
        why: Why => Vec<Chain> [again],
        usage: Usage => BTreeMap<String, Room> [again],
        audit: Audit => Vec<Finding> [again, lasting],
        heal: Heal => Vec<Healed> [lasting],
    }
}
