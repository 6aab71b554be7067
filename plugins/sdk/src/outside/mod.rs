//! Plugins outside of the daemon's program: in a shared library, or in a process.
//!
//! ```text
//!   daemon                                               plugin
//!   link -> proxy actor -> Cap'n Proto ==== stream ====> server -> link -> the plugin's actor
//!                          descriptors ==== socket ====>
//!   the plugins it requires <- server <==== stream ===== Cap'n Proto <- proxy actor <- its links
//! ```
//!
//! Whatever the source, a plugin is given two sockets: a stream for Cap'n Proto, and one on which descriptors
//! are sent ([`Wire`]). [`Session`] is the daemon's side, [`serve`] the plugin's. A plugin behind
//! them is the same actor as one that is compiled in, and does not notice the difference.
//!
//! What the two sides say is in plugin.capnp; how a library is entered, in [`abi`](crate::abi).

#[cfg(test)]
mod across;
mod adapter;
mod far;
mod guest;
mod host;
mod log;
mod session;
mod wire;

#[cfg(test)]
pub(crate) use across::across;
pub use adapter::{ADAPTERS, Adapter, Peers, Serving, adapter};
pub(crate) use far::{Far, Proxy, answered, call};
#[cfg(feature = "testing")]
pub(crate) use guest::serve_one;
pub use guest::{remote, serve};
pub use session::Session;
pub use wire::Wire;

/// Says in a process's environment on which descriptors its two sockets are: `<stream>,<descriptors>`.
pub const ENVIRONMENT: &str = "CAPSTAN_PLUGIN";
