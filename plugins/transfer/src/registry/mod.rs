//! The client of a registry: manifests and blobs over HTTP, by the OCI distribution specification.
//!
//! It never parses a manifest, never stores anything, and never decides what to fetch. A
//! [`Registry`] makes a [`Repository`] from a reference; that one resolves the reference, gets
//! manifests (small, verified here), and streams blobs (verified by whoever stores them); it takes both, too. Below:
//! `exchange` follows redirects and turns answers into errors, `pool` keeps connections, `retry`
//! decides what is tried again.
//!
//! Nothing runs in the background: a connection moves while somebody waits for it, and closes
//! when its owner is dropped. So any runtime will do, and every method may be dropped half-way.
//!
//! Invariants: a URL is made of parsed parts only; what is asked of the registry's own host (the
//! credentials, when there are any) is said to no other host; every wait has a limit, no total has.

mod blob;
mod config;
mod document;
mod download;
mod exchange;
#[cfg(test)]
mod fake;
mod pool;
mod repository;
mod retry;
#[cfg(test)]
mod tests;
mod upload;
#[cfg(test)]
mod upload_tests;

pub(crate) use blob::BlobStream;
pub(crate) use config::Config;
pub(crate) use document::{Object, Subject};
pub(crate) use repository::{Hash, Registry, Repository, hash};
pub(crate) use upload::{Pushed, Source};
