//! Adapters from contracts to Cap'n Proto interfaces: one module per kind, each with `serve`, which
//! gives a peer a capability that passes its calls on through a [`Link`](crate::Link).
//!
//! A message is decoded once, here; what the daemon works on is plain Rust. A panic while a call is
//! handled fails that call and nothing else.

mod access;
pub(crate) mod answer;
mod archive;
pub mod containers;
pub mod content;
pub mod differ;
pub mod event_log;
pub mod events;
pub mod gc;
pub mod gc_policy;
pub(crate) mod graph;
pub mod images;
pub mod leases;
pub mod metadata;
pub mod metrics;
pub mod namespaces;
mod pairs;
mod reach;
pub(crate) mod resources;
pub mod runtime;
pub mod sink;
pub mod snapshotter;
pub mod tasks;
pub mod transfer;
pub mod verifier;

pub(crate) use answer::{answer, length, namespace, page, text};
pub(crate) use pairs::{read_pairs, write_pairs};
