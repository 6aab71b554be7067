//! The client of a registry: manifests and blobs over HTTP, by the OCI distribution specification.
//!
//! It never parses a manifest, never stores anything, and never decides what to fetch. A
//! [`Registry`] makes a [`Repository`] from a reference; that one resolves the reference, gets
//! manifests (small, verified here), and streams blobs (verified by whoever stores them); it takes both, too. Below:
//! `exchange` follows redirects and turns answers into errors, `auth` says who asks, `hosts` knows the
//! settings of hosts and their mirrors, `pool` keeps connections, `connect` makes them (through a
//! `proxy`, with `tls`), `retry` decides what is tried again.
//!
//! Nothing runs in the background: a connection moves while somebody waits for it, and closes
//! when its owner is dropped. So any runtime will do, and every method may be dropped half-way.
//!
//! Invariants: a URL is made of parsed parts only; who asks is said to the registry's own host and its
//! token server, and to no other; a host elsewhere does not lead us to an address of this machine;
//! every wait has a limit, no total has.

mod auth;
mod blob;
mod challenge;
mod config;
mod connect;
mod credentials;
mod document;
mod download;
mod endpoint;
mod exchange;
#[cfg(test)]
mod fake;
mod foreign;
mod hosts;
mod login;
mod pool;
mod proxy;
mod referrers;
mod repository;
mod retry;
#[cfg(test)]
mod tests;
mod tls;
mod upload;
#[cfg(test)]
mod upload_tests;
mod url;

pub(crate) use blob::BlobStream;
pub(crate) use config::Config;
pub(crate) use document::{Object, Subject};
pub(crate) use proxy::Proxies;
pub(crate) use repository::{Hash, Registry, Repository, Resolved, hash};
pub(crate) use upload::{Begun, Pushed, Source};
