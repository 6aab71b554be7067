//! Image layouts in directories, on their way to the daemon and back as archives.

use std::fs::File;
use std::io::{self, BufWriter, PipeWriter};
use std::os::fd::OwnedFd;
use std::path::Path;

use capstan_client::{Error, Layout, Unpacked};
use tokio::task::{JoinError, JoinHandle, spawn_blocking};

use crate::exit::{Failure, Outcome};

fn panicked(error: &JoinError) -> Error {
    Error::internal(format!("reading or writing an image layout: {error}"))
}

fn pipe() -> Outcome<(io::PipeReader, PipeWriter)> {
    io::pipe().map_err(|error| Error::io("make a pipe", error).into())
}

/// Whether a path is that of a layout rather than of an archive.
pub(super) fn is_layout(path: &Path) -> bool {
    path.as_os_str().as_encoded_bytes().ends_with(b"/") || path.is_dir()
}

/// A layout that is being read.
pub(super) struct Packing(JoinHandle<capstan_client::Result<()>>);

impl Packing {
    /// Begins to read; the archive comes out of the file.
    pub(super) fn start(path: &Path) -> Outcome<(Self, tokio::fs::File)> {
        let layout = Layout::open(path)?;
        let (reader, writer) = pipe()?;
        let task = spawn_blocking(move || layout.pack(BufWriter::with_capacity(64 << 10, writer)));
        Ok((Self(task), tokio::fs::File::from_std(File::from(OwnedFd::from(reader)))))
    }

    /// Whether all of it was read.
    pub(super) async fn finish(self) -> Outcome {
        Ok(self.0.await.map_err(|error| panicked(&error))??)
    }
}

/// A layout that is being written.
pub(super) struct Unpacking(JoinHandle<(Layout, capstan_client::Result<Unpacked>)>);

impl Unpacking {
    /// Makes the layout, or opens it; the archive goes into the pipe.
    pub(super) fn start(path: &Path) -> Outcome<(Self, PipeWriter)> {
        let layout = Layout::open_or_make(path)?;
        let (reader, writer) = pipe()?;
        let task = spawn_blocking(move || {
            let unpacked = layout.unpack(reader);
            (layout, unpacked)
        });
        Ok((Self(task), writer))
    }

    /// Once the pipe is closed: puts the images into the index if all of the archive came.
    pub(super) async fn finish(self, received: Outcome) -> Outcome {
        let (layout, unpacked) = self.0.await.map_err(|error| panicked(&error))?;
        let outcome = match received {
            // That the pipe broke says less than why.
            Ok(()) | Err(Failure::BrokenPipe) => {
                unpacked.and_then(|unpacked| layout.commit(unpacked)).map_err(Failure::from)
            }
            failure => failure,
        };
        if outcome.is_err() {
            layout.discard();
        }
        outcome
    }
}
