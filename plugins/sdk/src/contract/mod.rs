//! The contracts: one module per kind of plugin, each with its messages and what they promise.
//!
//! Every message carries the namespace that it acts in, where there is one. Errors are by class;
//! where a message says nothing about a class, the caller should treat it as unexpected.

pub mod access;
pub mod containers;
pub mod content;
pub mod differ;
pub mod events;
mod fields;
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
pub mod verifier;

use capstan_schema::{Fields, Filters, Namespace, Result};

use crate::Link;
use crate::contract::metadata::Scan;

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
pub use verifier::Verifier;

/// A slice of a list that is ordered by key in byte order.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// The last key of the page before; empty for the first page.
    pub after: String,
    /// At most so many items.
    pub limit: usize,
    /// Of the items, those that any of these lets through. Scans of records know none.
    pub filters: Filters,
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
        Self { after: after.into(), limit, filters: Filters::default() }
    }

    /// Everything at once; for use inside the daemon, where a list is walked anyway.
    pub fn all() -> Self {
        Self { limit: usize::MAX, ..Self::default() }
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

/// How many records are looked at in one scan, where a filter lets through only some.
const SCAN: usize = 256;

impl<T> Listed<T> {
    /// A page of the records of a bucket that the page's filters let through.
    ///
    /// # Errors
    /// Those of `metadata` and of `decode`, with the record's name.
    pub async fn scan(
        metadata: &Link<Metadata>,
        bucket: &str,
        namespace: Option<Namespace>,
        page: Page,
        decode: impl Fn(&str, &[u8]) -> Result<T>,
    ) -> Result<Self>
    where
        T: Fields,
    {
        let Page { mut after, limit, filters } = page;
        let step = if filters.is_empty() { limit } else { limit.max(SCAN) };
        let mut items = Vec::new();
        loop {
            let page = Page { after, limit: step, ..Page::default() };
            let scan = Scan { bucket: bucket.into(), namespace: namespace.clone(), page };
            let rows = metadata.send(scan).await?;
            for (name, bytes) in &rows {
                let item = decode(name, bytes).map_err(|error| error.at(name))?;
                if !filters.matches(&item) {
                    continue;
                }
                items.push(item);
                if items.len() >= limit {
                    // It may be the last one; then the next page is empty, and says so.
                    return Ok(Self { items, next: name.clone() });
                }
            }
            match rows.last() {
                Some((name, _)) if rows.len() >= step => after = name.clone(),
                _ => return Ok(Self { items, next: String::new() }),
            }
        }
    }

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
