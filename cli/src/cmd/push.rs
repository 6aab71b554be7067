//! `capstan images push`.

use std::io::Write as _;

use capstan_client::schema::transfer_capnp::{self as wire, transfer};
use clap::ValueEnum;

use super::images::full_name;
use super::registry::{Reach, Who};
use crate::exit::Outcome;
use crate::print::{self, TransferProgress};
use crate::session::{Session, call};

#[derive(Debug, clap::Args)]
pub(crate) struct Push {
    /// What it is called in the registry
    #[arg(value_name = "REF")]
    reference: String,
    /// The image here [default: REF]
    source: Option<String>,
    #[command(flatten)]
    reach: Reach,
    #[command(flatten)]
    who: Who,
    /// Only this os/arch[/variant] of an index [default: all, which must be here]
    #[arg(long)]
    platform: Option<String>,
    /// How layers are packed: as they are here, or anew with zstd
    #[arg(long, value_enum, default_value_t = Compression::Keep)]
    compression: Compression,
    /// Blobs that are sent at once [default: the daemon's]
    #[arg(long)]
    concurrency: Option<u32>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Compression {
    Keep,
    Zstd,
}

impl Push {
    pub(crate) async fn run(self, session: &Session) -> Outcome {
        let service: transfer::Client = session.open("transfer");
        let mut request = service.push_request();
        let mut params = request.get();
        params.set_reference(full_name(&self.reference));
        params.set_source(self.source.as_deref().map(full_name).unwrap_or_default());
        let progress = TransferProgress::new(session.is_json());
        params.set_progress(progress.client());
        let mut options = params.init_options();
        self.reach.write(&self.who, &self.reference, options.reborrow().init_access());
        options.set_platform(self.platform.as_deref().unwrap_or_default());
        options.set_compression(match self.compression {
            Compression::Keep => wire::Compression::Keep,
            Compression::Zstd => wire::Compression::Zstd,
        });
        options.set_concurrency(self.concurrency.unwrap_or(0));
        let response = call!(session, request);
        progress.finish();
        let target = response.get()?.get_target()?;
        if session.is_json() {
            return print::json_line(target);
        }
        let name = full_name(&self.reference);
        Ok(writeln!(std::io::stdout(), "{name}  {}", target.get_digest()?.to_str()?)?)
    }
}
