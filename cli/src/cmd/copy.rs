//! `capstan images copy`.

use std::io::Write as _;

use capstan_client::schema::transfer_capnp::transfer;

use super::images::full_name;
use super::registry::Ends;
use crate::exit::Outcome;
use crate::print::{self, TransferProgress};
use crate::session::{Session, call};

/// Bring an image from one registry to another, or to another name in the same; it gets no name here
///
/// Only what the target lacks is fetched. The digest stays the same.
#[derive(Debug, clap::Args)]
pub(crate) struct Copy {
    /// What it is called where it is
    #[arg(value_name = "SOURCE")]
    source: String,
    /// What it will be called where it goes
    #[arg(value_name = "TARGET")]
    target: String,
    /// Only this os/arch[/variant] of an index, whose manifest is what arrives [default: all that it has]
    #[arg(long)]
    platform: Option<String>,
    /// All that an index has: the default
    #[arg(long, conflicts_with = "platform")]
    all_platforms: bool,
    /// Also what refers to it in the registry of SOURCE, such as signatures and lists of its parts, and to that
    #[arg(long)]
    referrers: bool,
    #[command(flatten)]
    ends: Ends,
    /// Blobs that are on their way at once [default: the daemon's for pushes]
    #[arg(long)]
    concurrency: Option<u32>,
}

impl Copy {
    pub(crate) async fn run(self, session: &Session) -> Outcome {
        let service: transfer::Client = session.open("transfer");
        let mut request = service.copy_request();
        let mut params = request.get();
        params.set_source(full_name(&self.source));
        params.set_target(full_name(&self.target));
        let progress = TransferProgress::new(session.is_json());
        params.set_progress(progress.client());
        let mut options = params.init_options();
        self.ends.write_source(&self.source, options.reborrow().init_source_access());
        self.ends.write_target(&self.target, options.reborrow().init_target_access());
        options.set_platform(self.platform.as_deref().unwrap_or_default());
        options.set_referrers(self.referrers);
        options.set_concurrency(self.concurrency.unwrap_or(0));
        let response = call!(session, request);
        progress.finish();
        let target = response.get()?.get_target()?;
        if session.is_json() {
            return print::json_line(target);
        }
        let name = full_name(&self.target);
        Ok(writeln!(std::io::stdout(), "{name}  {}", target.get_digest()?.to_str()?)?)
    }
}
