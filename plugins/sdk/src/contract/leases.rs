//! leases: what keeps things that nothing else references yet.
//!
//! A *lease* has a name, lies in the metadata, keeps the resources that were added to it and may expire.
//! A *hold* is its live form: it belongs to an operation, has no name that a stranger could remove, and
//! ends with its owner. While one is held in a namespace, everything that was used there since it began
//! is kept.

use std::sync::Arc;

use capstan_schema::{Labels, Namespace};
use tokio::sync::watch;

use crate::contract::graph::{Node, Resource};
use crate::contract::{Listed, Page};

/// A lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// An identifier, unique in its namespace.
    pub id: String,
    /// When it was made.
    pub created_at_unix_ns: i64,
    /// When it ends by itself, by the wall clock; 0 = never.
    pub expires_at_unix_ns: i64,
    /// Its own.
    pub labels: Labels,
}

/// Makes a lease. `AlreadyExists`; `InvalidArgument`: no identifier, or it would have expired already.
#[derive(Clone, Debug)]
pub struct Create {
    /// Where.
    pub namespace: Namespace,
    /// Empty = a random one.
    pub id: String,
    /// Nanoseconds from now; 0 = it never expires.
    pub expires_in_ns: i64,
    /// Its own.
    pub labels: Labels,
}

/// Looks one up. `NotFound`, also when it has expired.
#[derive(Clone, Debug)]
pub struct Get {
    /// Where.
    pub namespace: Namespace,
    /// Which.
    pub id: String,
}

/// Lists leases by id. Expired ones are gone.
#[derive(Clone, Debug)]
pub struct List {
    /// Where.
    pub namespace: Namespace,
    /// Which part.
    pub page: Page,
}

/// Ends a lease. `NotFound`.
#[derive(Clone, Debug)]
pub struct Delete {
    /// Where.
    pub namespace: Namespace,
    /// Which.
    pub id: String,
}

/// Has a lease keep something, which need not be there yet, or not any more. `NotFound`: the lease.
/// `InvalidArgument`: something that is kept by itself.
#[derive(Clone, Debug)]
pub struct Change {
    /// Where.
    pub namespace: Namespace,
    /// Which lease.
    pub id: String,
    /// What.
    pub resource: Resource,
    /// `false`: it lets go of it.
    pub is_kept: bool,
}

/// What a lease keeps, sorted. `NotFound`.
#[derive(Clone, Debug)]
pub struct Resources {
    /// Where.
    pub namespace: Namespace,
    /// Which lease.
    pub id: String,
}

/// Begins a hold.
#[derive(Clone, Debug)]
pub struct TakeHold {
    /// Where.
    pub namespace: Namespace,
    /// Whose: `pull host/path:tag`, for `why` and for people.
    pub owner: String,
}

/// A hold. Dropping the last clone ends it.
#[derive(Clone, Debug)]
pub struct Hold {
    /// Closed from the other side when the leases plugin has ended: then this holds nothing any more.
    alive: Arc<watch::Sender<()>>,
}

impl Hold {
    /// The two ends; the plugin keeps the second.
    pub fn new() -> (Self, watch::Receiver<()>) {
        let (alive, held) = watch::channel(());
        (Self { alive: Arc::new(alive) }, held)
    }

    /// Waits until it holds nothing any more, because the leases plugin has ended. An operation that
    /// it protects must begin anew.
    pub async fn broken(&self) {
        self.alive.closed().await;
    }
}

/// A hold that somebody has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Where.
    pub namespace: Namespace,
    /// Whose.
    pub owner: String,
    /// What was used since then is kept.
    pub since_unix_ns: i64,
}

/// All holds, of all namespaces.
#[derive(Clone, Debug)]
pub struct Holds;

/// The leases of a namespace that have not expired, each a root with what it keeps.
#[derive(Clone, Debug)]
pub struct Nodes(pub Namespace);

crate::contract! {
    /// The contract of kind `leases`.
    Leases ("leases") as LeasesAddr {
        create: Create => Lease,
        get: Get => Lease [again],
        list: List => Listed<Lease> [again],
        delete: Delete => (),
        change: Change => () [again],
        resources: Resources => Vec<Resource> [again],
        take_hold: TakeHold => Hold [again],
        holds: Holds => Vec<Held> [again],
        nodes: Nodes => Vec<Node> [again],
    }
}
