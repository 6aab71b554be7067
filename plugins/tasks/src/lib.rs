//! tasks.local: containers and runtimes brought together.
//!
//! It finds a container's runtime and passes calls on; makes container and task in one for `run`; and
//! removes ephemeral containers when their task has ended, whether or not the client that wanted that
//! is still there; and starts those again that have a restart policy. The one truth that it keeps is
//! which of these are to run: containers are records, tasks are the runtime's.

mod ephemeral;
mod plugin;
mod restart;
mod router;

pub use plugin::LocalTasks;
