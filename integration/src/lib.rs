//! The harness: real binaries, real registries, real mounts, for the tests, the demo and the benchmark.
//!
//! A [`Host`] is a throw-away place on a disk of its own with a daemon in it; [`DockerRegistry`] is
//! Debian's registry with the images of [`fixtures`], [`Guard`]ed or not, with a [`TokenServer`] beside it
//! and a [`FaultProxy`] or a [`Tunnel`] in front of it; [`FakeRegistry`] is one of ours that can be wrong in every way, with
//! [`Image`]s made by hand.
//!
//! It drives programs and never links them. What cannot be done is a panic that says what and why:
//! the callers are tests.

mod certificates;
mod disk;
mod docker_registry;
mod fake_registry;
mod fault_proxy;
pub mod fixtures;
mod host;
pub mod http;
mod image;
mod machine;
pub mod process;
mod programs;
mod random;
mod remains;
mod rootfs;
mod seclusion;
mod token_server;
mod tunnel;

pub use certificates::{Authority, Identity};
pub use disk::Disk;
pub use docker_registry::{DockerRegistry, Guard, PASSWORD, USER};
pub use fake_registry::{FakeRegistry, Fault};
pub use fault_proxy::{Exchange, FaultProxy, Trouble};
pub use host::{Host, Output};
pub use image::{Image, Layer, architecture, digest, gzip, noise};
pub use machine::Machine;
pub use programs::{criu, find, program, python};
pub use random::Random;
pub use remains::Remains;
pub use rootfs::make_rootfs;
pub use seclusion::{secluded, secluded_from_networks};
pub use token_server::{Asked, REFRESH_TOKEN, TokenServer};
pub use tunnel::{Passed, Tunnel};
