//! leases.local: what keeps things from garbage collection that nothing else references yet.
//!
//! Leases are records, and hold what was added to them until they expire. Holds are live: each is a channel whose other
//! end an operation or a client keeps, so that it ends with that, whatever becomes of it.

mod holds;
mod plugin;
mod record;

pub use plugin::LocalLeases;
