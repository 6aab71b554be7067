//! `capstan images referrers`.

use capstan_client::schema::read_labels;
use capstan_client::schema::transfer_capnp::transfer;

use super::images::full_name;
use super::namespaces::cell;
use super::registry::{Reach, Who};
use crate::exit::Outcome;
use crate::print::{self, Listing};
use crate::session::{Session, call};

#[derive(Debug, clap::Args)]
pub(crate) struct Referrers {
    #[arg(value_name = "REF")]
    reference: String,
    /// Only those of this type
    #[arg(long, value_name = "TYPE")]
    artifact_type: Option<String>,
    #[command(flatten)]
    reach: Reach,
    #[command(flatten)]
    who: Who,
    /// Print only their digests
    #[arg(short, long)]
    quiet: bool,
}

impl Referrers {
    pub(crate) async fn run(self, session: &Session) -> Outcome {
        let service: transfer::Client = session.open("transfer");
        let mut request = service.referrers_request();
        let mut params = request.get();
        params.set_reference(full_name(&self.reference));
        params.set_artifact_type(self.artifact_type.as_deref().unwrap_or_default());
        self.reach.write(&self.who, &self.reference, params.init_access());
        let response = call!(session, request);
        let columns = ["DIGEST", "TYPE", "SIZE", "ANNOTATIONS"];
        let mut list = Listing::new(session.is_json(), self.quiet, &columns);
        for item in response.get()?.get_referrers()? {
            let manifest = item.get_manifest()?;
            list.item(item, manifest.get_digest(), |digest| {
                let kind = item.get_artifact_type()?.to_str()?;
                Ok([
                    digest.to_owned(),
                    if kind.is_empty() { "-".into() } else { kind.to_owned() },
                    print::size(manifest.get_size()),
                    cell(&read_labels(item.get_annotations()?)?),
                ])
            })?;
        }
        list.print()
    }
}
