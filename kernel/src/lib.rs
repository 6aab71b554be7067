//! The kernel: it boots a registry of plugins, keeps them alive, and lets peers in.
//!
//! Principles:
//! 1. It knows no contract by name, and touches no container, no blob and no database.
//! 2. A plugin that fails costs its dependents, never the daemon.
//! 3. It never waits for something that it supervises without a deadline.
//! 4. What a plugin is, is said once, in its descriptor; where the descriptor came from (compiled in,
//!    shared library, remote process) makes no difference behind [`Registry`].
//!
//! The pieces: [`graph`] orders plugins by what they require; [`Kernel`] starts them in that order and
//! supervises them; [`loader`] brings in those that are not compiled in; [`Registry`] is what is live, for links between plugins and for peers;
//! [`Config`] is the daemon's file; [`Listener`] accepts connections and hands out the root capability.

mod config;
pub mod graph;
mod listener;
pub mod loader;
mod registry;
mod source;
mod supervisor;

pub use config::{Config, Select, Supervision};
pub use listener::{Listener, SocketPath};
pub use loader::{Load, Loader};
pub use registry::Registry;
pub use source::{Candidate, Source};
pub use supervisor::{Kernel, Reread, Setup, gather};
