//! The contracts: one module per kind of plugin, each with its messages and what they promise.
//!
//! Every message carries the namespace that it acts in, where there is one. Errors are by class;
//! where a message says nothing about a class, the caller should treat it as unexpected.

pub mod containers;
pub mod content;
pub mod differ;
pub mod events;
pub mod gc;
pub mod gc_policy;
pub mod graph;
pub mod images;
pub mod leases;
pub mod metadata;
pub mod metrics;
pub mod namespaces;
pub mod resources;
pub mod restart;
pub mod runtime;
pub mod sink;
pub mod snapshotter;
pub mod tasks;
pub mod transfer;

pub use containers::Containers;
pub use content::Content;
pub use differ::Differ;
pub use events::Events;
pub use gc::Gc;
pub use gc_policy::GcPolicy;
pub use images::Images;
pub use leases::Leases;
pub use metadata::Metadata;
pub use metrics::Metrics;
pub use namespaces::Namespaces;
pub use runtime::Runtime;
pub use sink::Sink;
pub use snapshotter::Snapshotter;
pub use tasks::Tasks;
pub use transfer::Transfer;

/// A slice of a list that is ordered by key in byte order.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// The last key of the page before; empty for the first page.
    pub after: String,
    /// At most so many items.
    pub limit: usize,
}

impl Page {
    /// How many items a caller gets who did not say.
    pub const DEFAULT_LIMIT: usize = 100;
    /// How many items a caller gets at most.
    pub const MAX_LIMIT: usize = 1000;

    /// Everything from `after` on, within the limits that peers have: 0 is the default.
    pub fn new(after: impl Into<String>, limit: u32) -> Self {
        let limit = match usize::try_from(limit) {
            Ok(0) => Self::DEFAULT_LIMIT,
            Ok(limit) => limit.min(Self::MAX_LIMIT),
            Err(_) => Self::MAX_LIMIT,
        };
        Self { after: after.into(), limit }
    }

    /// Everything at once; for use inside the daemon, where a list is walked anyway.
    pub fn all() -> Self {
        Self { after: String::new(), limit: usize::MAX }
    }
}

/// One page of a list.
#[derive(Clone, Debug)]
pub struct Listed<T> {
    /// In byte order of their keys.
    pub items: Vec<T>,
    /// The `after` of the next page; empty at the end.
    pub next: String,
}

impl<T> Listed<T> {
    /// A page from the rows that a scan gave for a page of `limit`.
    ///
    /// # Errors
    /// Those of `decode`, with the row's name.
    pub fn decode(
        rows: &[(String, Vec<u8>)],
        limit: usize,
        decode: impl Fn(&str, &[u8]) -> capstan_schema::Result<T>,
    ) -> capstan_schema::Result<Self> {
        // A full page may be the last one; then the next is empty, and says so.
        let next = match rows.last() {
            Some((name, _)) if rows.len() >= limit => name.clone(),
            _ => String::new(),
        };
        let items = rows
            .iter()
            .map(|(name, bytes)| decode(name, bytes).map_err(|error| error.at(name)))
            .collect::<capstan_schema::Result<_>>()?;
        Ok(Self { items, next })
    }
}
