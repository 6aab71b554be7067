//! gc.local: garbage collection, and questions to the ownership graph.
//!
//! Every owner (content, snapshotters, images, containers, leases) tells what it has and what that references.
//! Roots are images, containers, leases, ingests, active snapshots, and what carries a label for it; what
//! a live hold covers is kept as well. Nothing is locked meanwhile: an owner refuses to remove what was used since the
//! look began.
//!
//! Invariant: if any owner does not answer, nothing is removed.

mod audit;
mod config;
mod graph;
mod heal;
mod layers;
mod leftovers;
mod mark;
mod owners;
mod plugin;
mod schedule;
mod sweep;

pub use config::Config;
pub use plugin::LocalGc;
