//! tasks.local: containers and runtimes brought together.
//!
//! It finds a container's runtime and passes calls on; makes container and task in one for `run`; and
//! removes ephemeral containers when their task has ended, whether or not the client that wanted that
//! is still there; and starts those again that have a restart policy. The one truth that it keeps is
//! which of these are to run: containers are records, tasks are the runtime's.
//!
//! A checkpoint is an OCI index of two: the image of the container, for the host's platform, and a
//! manifest for `unknown/unknown` with what the container was more than its image: the container itself
//! as the configuration, the dump of its processes and what it changed in its files as the layers. So
//! it is stored, listed, pushed and pulled as any image is, and can be run as the image that it holds.

mod checkpoint;
mod document;
mod dump;
mod ephemeral;
mod naming;
mod plugin;
mod restart;
mod router;

pub use plugin::LocalTasks;
