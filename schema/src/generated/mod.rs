//! Made by `cargo xtask schema` from schema/capnp. Do not edit.

#![allow(
    missing_docs,
    unreachable_pub,
    elided_lifetimes_in_paths,
    unsafe_code,
    clippy::all,
    clippy::allow_attributes_without_reason,
    clippy::unimplemented,
    clippy::cast_possible_truncation,
    clippy::needless_pass_by_value,
    clippy::wildcard_imports,
    reason = "generated"
)]

#[rustfmt::skip]
pub mod common_capnp;
#[rustfmt::skip]
pub mod container_capnp;
#[rustfmt::skip]
pub mod content_capnp;
#[rustfmt::skip]
pub mod differ_capnp;
#[rustfmt::skip]
pub mod event_capnp;
#[rustfmt::skip]
pub mod gc_capnp;
#[rustfmt::skip]
pub mod gc_policy_capnp;
#[rustfmt::skip]
pub mod graph_capnp;
#[rustfmt::skip]
pub mod health_capnp;
#[rustfmt::skip]
pub mod image_capnp;
#[rustfmt::skip]
pub mod introspection_capnp;
#[rustfmt::skip]
pub mod leases_capnp;
#[rustfmt::skip]
pub mod metadata_capnp;
#[rustfmt::skip]
pub mod metrics_capnp;
#[rustfmt::skip]
pub mod namespace_capnp;
#[rustfmt::skip]
pub mod plugin_capnp;
#[rustfmt::skip]
pub mod record_capnp;
#[rustfmt::skip]
pub mod root_capnp;
#[rustfmt::skip]
pub mod runtime_capnp;
#[rustfmt::skip]
pub mod shim_capnp;
#[rustfmt::skip]
pub mod sink_capnp;
#[rustfmt::skip]
pub mod snapshot_capnp;
#[rustfmt::skip]
pub mod task_capnp;
#[rustfmt::skip]
pub mod transfer_capnp;
#[rustfmt::skip]
pub mod verifier_capnp;
#[rustfmt::skip]
pub mod version_capnp;
