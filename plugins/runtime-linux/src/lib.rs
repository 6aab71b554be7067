//! runtime.linux: a shim behind each task, and an OCI runtime behind each shim.
//!
//! The shim owns the truth: a record beside its socket, synced before anybody is told. What is kept
//! here is a copy, which answers at once and never waits for a shim. When the daemon starts it reads
//! the records, connects to the shims that live, and says of the others what their records say.
//!
//! ```text
//! <state>/runtime.linux/tasks/<namespace>/<id>/   config.json, rootfs/, io/, record, shim.sock, ...
//! <state>/runtime.linux/oci/<namespace>/          the runtimes' own directories
//! ```
//!
//! Invariant: nothing of a container runs in the daemon's process, and the daemon mounts nothing for it.

mod cgroup;
mod checkpoint;
mod config;
mod failpoint;
mod failure;
mod launch;
mod live;
mod logs;
mod plugin;
mod publish;
mod record;
mod recover;
mod remains;
mod settle;
mod shim;
mod task;
mod userns;

pub use config::{Config, RuntimeConfig};
pub use plugin::LinuxRuntime;
