//! The commands: one file per noun. Parse, call, print.

pub(crate) mod archive;
pub(crate) mod containers;
pub(crate) mod content;
pub(crate) mod events;
pub(crate) mod filter;
pub(crate) mod foreground;
pub(crate) mod health;
pub(crate) mod image_mount;
pub(crate) mod images;
pub(crate) mod info;
pub(crate) mod layers;
pub(crate) mod leases;
pub(crate) mod limits;
pub(crate) mod logs;
pub(crate) mod metrics;
pub(crate) mod namespaces;
pub(crate) mod plugins;
pub(crate) mod run;
pub(crate) mod signal;
pub(crate) mod snapshots;
pub(crate) mod spec;
pub(crate) mod streams;
pub(crate) mod system;
pub(crate) mod tasks;
pub(crate) mod version;
