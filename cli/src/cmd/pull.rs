//! `capstan images pull` and `capstan content fetch`.

use std::io::Write as _;

use capstan_client::schema::transfer_capnp::transfer;

use super::images::full_name;
use super::registry::{Reach, Who};
use crate::exit::Outcome;
use crate::print::{self, TransferProgress};
use crate::session::{Session, call};

#[derive(Debug, clap::Args)]
pub(crate) struct Pull {
    #[arg(value_name = "REF")]
    reference: String,
    /// os/arch[/variant] [default: the host's]
    #[arg(long)]
    platform: Option<String>,
    /// Fetch what there is for all platforms; only that of --platform is unpacked
    #[arg(long)]
    all_platforms: bool,
    #[command(flatten)]
    reach: Reach,
    #[command(flatten)]
    who: Who,
    /// The snapshotter to unpack for
    #[arg(long)]
    snapshotter: Option<String>,
    /// Fetch content only
    #[arg(long)]
    no_unpack: bool,
    /// Layers that are fetched at once [default: as many as the daemon fetches for all]
    #[arg(long)]
    concurrency: Option<u32>,
}

/// What `content fetch` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct Fetch {
    #[arg(value_name = "REF")]
    reference: String,
    /// Only this os/arch[/variant] [default: all]
    #[arg(long)]
    platform: Option<String>,
    #[command(flatten)]
    reach: Reach,
    #[command(flatten)]
    who: Who,
    /// Blobs that are fetched at once [default: as many as the daemon fetches for all]
    #[arg(long)]
    concurrency: Option<u32>,
}

impl Fetch {
    pub(crate) async fn run(self, session: &Session) -> Outcome {
        let Self { reference, platform, reach, who, concurrency } = self;
        let pull = Pull {
            reference,
            all_platforms: platform.is_none(),
            platform,
            reach,
            who,
            snapshotter: None,
            no_unpack: true,
            concurrency,
        };
        pull.pull(session, false).await.map(drop)
    }
}

impl Pull {
    /// The pull that `run` does when the image is missing.
    pub(crate) fn for_run(reference: &str, reach: Reach, snapshotter: Option<String>) -> Self {
        Self {
            reference: reference.into(),
            platform: None,
            all_platforms: false,
            reach,
            who: Who::default(),
            snapshotter,
            no_unpack: false,
            concurrency: None,
        }
    }

    /// Pulls, and gives the image's name.
    pub(crate) async fn pull(self, session: &Session, is_quiet: bool) -> Outcome<String> {
        let service: transfer::Client = session.open("transfer");
        let mut request = service.pull_request();
        let mut params = request.get();
        // What is no reference goes as it is: the daemon says what is wrong with it.
        params.set_reference(full_name(&self.reference));
        let progress = TransferProgress::new(session.is_json() && !is_quiet);
        params.set_progress(progress.client());
        let mut options = params.init_options();
        options.set_platform(self.platform.as_deref().unwrap_or_default());
        self.reach.write(&self.who, &self.reference, options.reborrow().init_access());
        options.set_snapshotter(self.snapshotter.as_deref().unwrap_or_default());
        options.set_no_unpack(self.no_unpack);
        options.set_all_platforms(self.all_platforms);
        options.set_concurrency(self.concurrency.unwrap_or(0));
        let response = call!(session, request);
        progress.finish();
        let image = response.get()?.get_image()?;
        let name = image.get_name()?.to_string()?;
        if is_quiet {
            return Ok(name);
        }
        if session.is_json() {
            print::json_line(image)?;
        } else {
            writeln!(std::io::stdout(), "{name}  {}", image.get_target()?.get_digest()?.to_str()?)?;
        }
        Ok(name)
    }
}
