//! The client library: connect to a daemon, open services, call them, get typed errors.
//!
//! It works on a tokio `LocalSet`, since Cap'n Proto capabilities stay on one thread. Calls are
//! pipelined: [`Client::open`] does not wait, and neither does a call on what a call will return.
//!
//! ```ignore
//! let client = Client::connect("unix:///run/capstan/capstan.sock").await?;
//! let images: images::Client = client.open("images", "default");
//! let mut request = images.get_request();
//! request.get().set_name("127.0.0.1:5000/app:latest");
//! let reply = client.call(request.send().promise).await?;
//! let image = check!(reply.get()?)?.get_image()?;
//! ```
//!
//! Invariant: nothing about a command line is in here.

mod connection;
pub mod credentials;
mod layout;
mod stdio;

pub use capstan_schema as schema;
pub use capstan_schema::{Class, Error, Result};
pub use connection::{Client, DEFAULT_ADDRESS, DEFAULT_NAMESPACE};
pub use layout::{Layout, Unpacked};
pub use stdio::{AttachedInput, AttachedOutput, Output, attach, open_fifo};

/// Turns the `error` field of a results reader into a typed error, or gives the reader back.
#[macro_export]
macro_rules! check {
    ($results:expr) => {{
        let results = $results;
        match $crate::Error::read(results.has_error(), results.get_error()) {
            Some(error) => Err(error),
            None => Ok::<_, $crate::Error>(results),
        }
    }};
}
