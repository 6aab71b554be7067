//! sink: where events go that are to leave the daemon's own log.
//!
//! A sink keeps no place in the log: whoever delivers does, and moves on only when the sink has
//! answered. So nothing is lost when either side ends, and an event may come twice.

use crate::contract::events::Event;

/// Takes events, in the order of their cursors, each at least once.
///
/// An answer means that the sink has them all: synced, if it keeps them. After an error, or when the
/// sink broke off, the same batch comes again. An empty batch is fine.
#[derive(Clone, Debug)]
pub struct Deliver(pub Vec<Event>);

crate::contract! {
    /// The contract of kind `sink`.
    Sink ("sink") as SinkAddr {
        deliver: Deliver => () [again],
    }
}
