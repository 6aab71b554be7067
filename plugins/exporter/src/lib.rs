//! exporter.prometheus: `GET /metrics` for Prometheus, on an address of the configuration; none by default.
//!
//! It says what `capstan metrics` says, and asks for it when it is scraped, never in between.
//!
//! Invariant: it answers, and changes nothing. Who reaches the address may read: there is no other guard.

mod collect;
mod plugin;
mod serve;

pub use plugin::{Config, PrometheusExporter};
