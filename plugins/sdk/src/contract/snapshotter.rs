//! snapshotter: copy-on-write file trees.
//!
//! A snapshot is *active* (writable, made by [`Prepare`]), a *view* (read-only) or *committed*
//! (immutable, able to be a parent). Active keys and committed names share one key space per
//! namespace. A snapshotter makes mounts, it does not mount: that is for the differ and the shim.

use capstan_schema::{Error, Labels, Mount, Namespace, Result, parse_bytes};

use crate::contract::graph::{Collected, Finding, Node};
use crate::contract::{Listed, Page};

/// A label of an active snapshot whose writes need not survive a power cut: the container that has
/// it goes when its task ends. A driver may leave out syncs for it.
pub const LABEL_EPHEMERAL: &str = "capstan/ephemeral";

/// A label of an active snapshot that whoever made it commits at once, or sweeps after a crash: until it is
/// committed nothing of it need survive a power cut.
pub const LABEL_SCRATCH: &str = "capstan/scratch";

/// A label that says what an active snapshot or a view is for; whoever sets it sweeps what a crash left.
pub const LABEL_OWNER: &str = "capstan/owner";

/// A label of an active snapshot: how many bytes its own data may take, as blocks of the file system, written as
/// [`parse_size`] reads it. Whoever writes more gets `ENOSPC` or `EDQUOT`. It ends when the snapshot is committed. For a
/// snapshotter with [`Abilities::can_limit`]; any other refuses it.
///
/// Set on an active snapshot that has it, it changes the limit; an empty value removes the limit.
pub const LABEL_SIZE: &str = "capstan/size";

/// The largest size that makes sense, in bytes: 1 EiB.
const MAX_SIZE: u64 = 1 << 60;

/// Reads a size as users write it ([`parse_bytes`]).
///
/// # Errors
/// `InvalidArgument`: it is none, or 0, or above 1 EiB.
pub fn parse_size(text: &str) -> Result<u64> {
    let size = parse_bytes(text)?;
    if !(1..=MAX_SIZE).contains(&size) {
        return Err(Error::invalid(format!("size {text:?}: it must be above 0 and at most 1 EiB")));
    }
    Ok(size)
}

/// What a snapshot is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Writable.
    Active,
    /// Read-only, cannot be committed.
    View,
    /// Immutable.
    Committed,
}

impl Kind {
    /// The word that users see.
    pub fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::View => "view",
            Self::Committed => "committed",
        }
    }
}

/// What is known of a snapshot.
#[derive(Clone, Debug)]
pub struct SnapshotInfo {
    /// Its name.
    pub key: String,
    /// What it stands on; empty = nothing.
    pub parent: String,
    /// What it is.
    pub kind: Kind,
    /// When it was prepared.
    pub created_at_unix_ns: i64,
    /// When it was committed or labelled.
    pub updated_at_unix_ns: i64,
    /// Labels.
    pub labels: Labels,
}

/// What a snapshot's own data takes, without its parents: apparent bytes, each inode once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes.
    pub size: u64,
    /// Files, directories and all else.
    pub inodes: u64,
}

/// Makes a writable tree on a committed parent (empty = on nothing). Answers its mounts.
///
/// `NotFound`: parent. `InvalidArgument`: the parent is not committed; [`LABEL_SIZE`] is none. `AlreadyExists`: key.
/// `Unimplemented`: [`LABEL_SIZE`], which is not kept here; nothing was made then.
#[derive(Clone, Debug)]
pub struct Prepare {
    /// In which namespace.
    pub namespace: Namespace,
    /// Its name while it is active.
    pub key: String,
    /// What it stands on.
    pub parent: String,
    /// Labels.
    pub labels: Labels,
}

/// Makes a read-only tree. As [`Prepare`] otherwise.
#[derive(Clone, Debug)]
pub struct View {
    /// In which namespace.
    pub namespace: Namespace,
    /// Its name.
    pub key: String,
    /// What it shows.
    pub parent: String,
    /// Labels.
    pub labels: Labels,
}

/// The mounts of an active snapshot or a view. `FailedPrecondition`: it is committed.
#[derive(Clone, Debug)]
pub struct Mounts {
    /// In which namespace.
    pub namespace: Namespace,
    /// Which snapshot.
    pub key: String,
}

/// Syncs an active snapshot and makes it immutable under a new name; the key is consumed.
///
/// `FailedPrecondition`: it is committed, or a view. `AlreadyExists`: name.
#[derive(Clone, Debug)]
pub struct Commit {
    /// In which namespace.
    pub namespace: Namespace,
    /// The name from now on.
    pub name: String,
    /// The name until now.
    pub key: String,
    /// Puts it on another committed parent than it was prepared on; only for a snapshotter with
    /// [`Abilities::can_rebase`], and only for one that was prepared on nothing.
    pub rebase: Option<String>,
    /// Its labels from now on: those of the active snapshot end with it.
    pub labels: Labels,
}

/// Removes a snapshot of any kind. `FailedPrecondition`: it has children.
#[derive(Clone, Debug)]
pub struct Remove {
    /// In which namespace.
    pub namespace: Namespace,
    /// Which.
    pub key: String,
}

/// Looks a snapshot up. `NotFound`.
#[derive(Clone, Debug)]
pub struct Stat {
    /// In which namespace.
    pub namespace: Namespace,
    /// Which.
    pub key: String,
}

/// Lists snapshots by key.
#[derive(Clone, Debug)]
pub struct List {
    /// In which namespace.
    pub namespace: Namespace,
    /// Which slice.
    pub page: Page,
}

/// Measures a snapshot's own data, by walking it.
#[derive(Clone, Debug)]
pub struct Measure {
    /// In which namespace.
    pub namespace: Namespace,
    /// Which.
    pub key: String,
}

/// Asks what the snapshotter can do beyond the contract.
#[derive(Clone, Debug)]
pub struct Ask;

/// What a snapshotter can do beyond the contract.
#[derive(Clone, Copy, Debug, Default)]
pub struct Abilities {
    /// A layer's tree does not depend on its parent: it can be prepared on nothing, filled with
    /// the layer in overlay form (whiteouts as device nodes), and put on its parent at commit.
    /// So the layers of an image can be unpacked at the same time.
    pub can_rebase: bool,
    /// It takes [`Stack`] and [`CommitChain`]: layers that were prepared on nothing can be looked at on each other, and
    /// committed on each other with one sync. Only together with `can_rebase`.
    pub can_chain: bool,
    /// It takes [`LABEL_SIZE`]: it keeps the limit, or says with `Unimplemented` why it cannot where it is. Without
    /// this, it always says that.
    pub can_limit: bool,
}

/// A layer of a [`Stack`].
#[derive(Clone, Debug)]
pub struct StackLayer {
    /// While it is active.
    pub key: String,
    /// Once it is committed.
    pub name: String,
}

/// Asks for mounts that show layers on each other, to be read: active snapshots that were prepared on nothing and filled in
/// overlay form, and at the bottom one that is committed, with all that it stands on. One that was committed
/// meanwhile is found under its name, and what is said of the layers below it is not looked at.
///
/// `NotFound`. `InvalidArgument`: nothing is named, or an active one stands on something. `Unimplemented`: without
/// [`Abilities::can_chain`].
#[derive(Clone, Debug)]
pub struct Stack {
    /// Where.
    pub namespace: Namespace,
    /// Topmost first.
    pub layers: Vec<StackLayer>,
}

/// Takes commits in order, with one sync, all or none of them. One may be put on another before it.
///
/// Errors as of [`Commit`]. `InvalidArgument`: they are of several namespaces. `Unimplemented`: without
/// [`Abilities::can_chain`].
#[derive(Clone, Debug)]
pub struct CommitChain(pub Vec<Commit>);

/// The namespace of all commits of a chain; `None` if there are none.
///
/// # Errors
/// `InvalidArgument`: they are of several.
pub fn one_namespace(commits: &[Commit]) -> Result<Option<&Namespace>> {
    let first = commits.first().map(|commit| &commit.namespace);
    if commits.iter().any(|commit| Some(&commit.namespace) != first) {
        return Err(Error::invalid("a chain of commits of several namespaces: send one for each"));
    }
    Ok(first)
}

/// Sets labels and keeps the others; an empty value removes the key. `NotFound`. With [`LABEL_SIZE`] as of [`Prepare`],
/// and `FailedPrecondition`: the snapshot is not active, or was made without a limit.
#[derive(Clone, Debug)]
pub struct Label {
    /// Where.
    pub namespace: Namespace,
    /// Which.
    pub key: String,
    /// The changes.
    pub labels: Labels,
}

/// As [`Stat`], and notes that it was used: from now on it is not collected by a run that has begun already.
#[derive(Clone, Debug)]
pub struct Use {
    /// Where.
    pub namespace: Namespace,
    /// Which.
    pub key: String,
}

/// Removes those that nobody used since `unused_since_unix_ns` and that have no children when their turn comes.
#[derive(Clone, Debug)]
pub struct Collect {
    /// Where.
    pub namespace: Namespace,
    /// Which, children before their parents.
    pub keys: Vec<String>,
    /// When the caller began to look who keeps them.
    pub unused_since_unix_ns: i64,
}

/// The snapshots of a namespace, each with its parent as reference. Active ones and views are roots.
#[derive(Clone, Debug)]
pub struct Nodes(pub Namespace);

/// Compares records with what lies on disk, of all namespaces.
///
/// With `is_cleaning` what nothing names is removed; it is found all the same, and its detail ends with `; removed`.
#[derive(Clone, Debug)]
pub struct Audit {
    /// Also what takes reading all of it, where the snapshotter knows what it should be.
    pub is_full: bool,
    /// Remove what nothing names.
    pub is_cleaning: bool,
}

/// Asks for a mount of a snapshot's own layer, writable, whatever its kind: for who checks or repairs files. Where
/// [`Abilities::can_rebase`] is false it is the whole tree. That of a committed snapshot whose files are gone is empty: [`Audit`]
/// tells of those that are gone, so ask it first. `NotFound`; `Unimplemented`: it has none that could be
/// mounted.
#[derive(Clone, Debug)]
pub struct OwnLayer {
    /// Where.
    pub namespace: Namespace,
    /// Which.
    pub key: String,
}

crate::contract! {
    /// The contract of kind `snapshotter`.
    Snapshotter ("snapshotter") as SnapshotterAddr {
        prepare: Prepare => Vec<Mount>,
        view: View => Vec<Mount>,
        mounts: Mounts => Vec<Mount> [again],
        commit: Commit => (),
        remove: Remove => (),
        stat: Stat => SnapshotInfo [again],
        list: List => Listed<SnapshotInfo> [again],
        measure: Measure => Usage [again],
        ask: Ask => Abilities [again],
        label: Label => SnapshotInfo,
        use_: Use => SnapshotInfo [again],
        collect: Collect => Collected [again],
        nodes: Nodes => Vec<Node> [again],
        audit: Audit => Vec<Finding> [again],
        own_layer: OwnLayer => Vec<Mount> [again],
        stack: Stack => Vec<Mount> [again],
        commit_chain: CommitChain => (),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use capstan_schema::Class;

    #[test]
    fn sizes_are_read() {
        let check = |text: &str, want: u64| assert_eq!(parse_size(text).unwrap(), want, "{text}");
        check("1", 1);
        check("10m", 10 << 20);
        check("10MB", 10 << 20);
        check("1048576t", 1 << 60);
        for text in ["", "0", "0m", "10x", "2000000t", "99999999999999999999"] {
            assert_eq!(parse_size(text).unwrap_err().class(), Class::InvalidArgument, "{text:?}");
        }
    }
}
