//! `capstan snapshots diff` and `apply`.

use std::io::Write as _;

use capstan_client::Error;
use capstan_client::schema::MAX_CHUNK_BYTES;
use capstan_client::schema::content_capnp::content;
use capstan_client::schema::transfer_capnp::transfer;
use clap::ValueEnum;
use tokio::io::AsyncReadExt as _;

use super::content::get;
use crate::exit::Outcome;
use crate::print;
use crate::session::{Session, call};

/// The layer types of the OCI image specification.
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// Write what a snapshot has and its parent has not to stdout, as a layer
#[derive(Debug, clap::Args)]
pub(crate) struct Diff {
    key: String,
    /// Compare with this one [default: its own parent]
    parent: Option<String>,
    #[arg(long, value_enum, default_value_t = Compression::None)]
    compression: Compression,
    /// Print the stored layer's descriptor instead, as JSON
    #[arg(long)]
    descriptor: bool,
}

/// Unpack a layer from stdin into an active snapshot, and print its diff id
#[derive(Debug, clap::Args)]
pub(crate) struct Apply {
    key: String,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Compression {
    None,
    Gzip,
    Zstd,
}

impl Compression {
    fn media_type(self) -> String {
        match self {
            Self::None => LAYER.to_owned(),
            Self::Gzip => format!("{LAYER}+gzip"),
            Self::Zstd => format!("{LAYER}+zstd"),
        }
    }

    fn of(head: &[u8]) -> Self {
        match head {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
            _ => Self::None,
        }
    }
}

impl Diff {
    pub(crate) async fn run(self, session: &Session, snapshotter: Option<&str>) -> Outcome {
        let service: transfer::Client = session.open("transfer");
        let mut request = service.diff_request();
        request.get().set_snapshotter(snapshotter.unwrap_or_default());
        request.get().set_key(&self.key);
        request.get().set_parent(self.parent.as_deref().unwrap_or_default());
        request.get().set_media_type(self.compression.media_type());
        let response = call!(session, request);
        if self.descriptor || session.is_json() {
            return print::json(response.get()?);
        }
        let digest = response.get()?.get_layer()?.get_digest()?.to_str()?;
        get(session, &session.open("content"), digest).await
    }
}

impl Apply {
    pub(crate) async fn run(self, session: &Session, snapshotter: Option<&str>) -> Outcome {
        let content: content::Client = session.open("content");
        let mut request = content.ingest_request();
        request.get().set_ref(format!("apply-{}-{}", self.key, std::process::id()));
        let response = call!(session, request);
        let ingest = response.get()?.get_ingest()?;
        if response.get()?.get_info()?.get_offset() > 0 {
            // Left by another process of that number.
            call!(session, ingest.abort_request());
            return Err(Error::unavailable("an earlier apply left its bytes; try again").into());
        }
        let mut input = tokio::io::stdin();
        let mut buffer = vec![0; MAX_CHUNK_BYTES as usize];
        let (mut offset, mut compression) = (0, Compression::None);
        loop {
            let mut filled = 0;
            while filled < buffer.len() {
                match input.read(&mut buffer[filled..]).await? {
                    0 => break,
                    got => filled += got,
                }
            }
            if offset == 0 {
                compression = Compression::of(&buffer[..filled]);
            }
            if filled == 0 {
                break;
            }
            let mut request = ingest.write_request();
            request.get().set_offset(offset);
            request.get().set_bytes(&buffer[..filled]);
            let response = call!(session, request);
            offset = response.get()?.get_offset();
        }
        let response = call!(session, ingest.commit_request());
        let reply = response.get()?;
        let service: transfer::Client = session.open("transfer");
        let mut request = service.apply_request();
        request.get().set_snapshotter(snapshotter.unwrap_or_default());
        request.get().set_key(&self.key);
        let mut layer = request.get().init_layer();
        layer.set_media_type(compression.media_type());
        layer.set_digest(reply.get_digest()?);
        layer.set_size(reply.get_size());
        let response = call!(session, request);
        if session.is_json() {
            return print::json(response.get()?);
        }
        Ok(writeln!(std::io::stdout(), "{}", response.get()?.get_diff_id()?.to_str()?)?)
    }
}
