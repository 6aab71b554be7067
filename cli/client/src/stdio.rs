//! The client's ends of a process's streams.

use std::path::Path;

use capstan_schema::{Error, Result};
use tokio::net::unix::pipe;

/// Opens the reading end of a FIFO that a shim made. It does not wait for a writer.
///
/// # Errors
/// `NotFound`: the task is gone.
pub fn open_fifo(path: &str) -> Result<pipe::Receiver> {
    pipe::OpenOptions::new()
        .open_receiver(Path::new(path))
        .map_err(|error| Error::io(format!("open stream {path}"), error))
}
