//! What every implementation of a contract must pass, in whatever form it is loaded.
//!
//! Feature `testing`. A suite is a list of named cases, so that a test can say which one failed.

pub mod content;
mod content_graph;
pub mod differ;
pub mod gc_policy;
pub mod metrics;
pub mod runtime;
pub mod sink;
pub mod snapshotter;
mod snapshotter_graph;
mod snapshotter_limit;
pub mod verifier;
