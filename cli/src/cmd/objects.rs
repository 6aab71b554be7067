//! `capstan content fetch-object` and `push-object`: single documents and blobs of registries.

use std::io::Write as _;

use capstan_client::schema::transfer_capnp::transfer;

use super::images::full_name;
use super::registry::{Reach, Who};
use crate::exit::Outcome;
use crate::print;
use crate::session::{Session, call};

#[derive(Debug, clap::Args)]
pub(crate) struct FetchObject {
    /// By tag or digest
    #[arg(value_name = "REF")]
    reference: String,
    #[command(flatten)]
    reach: Reach,
    #[command(flatten)]
    who: Who,
    /// Do not say on stderr what it is
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct PushObject {
    /// Where to; a document gets the tag
    #[arg(value_name = "REF")]
    reference: String,
    digest: String,
    media_type: String,
    #[command(flatten)]
    reach: Reach,
    #[command(flatten)]
    who: Who,
}

impl FetchObject {
    pub(crate) async fn run(self, session: &Session) -> Outcome {
        let service: transfer::Client = session.open("transfer");
        let mut request = service.get_object_request();
        request.get().set_reference(full_name(&self.reference));
        self.reach.write(&self.who, &self.reference, request.get().init_access());
        let response = call!(session, request);
        let object = response.get()?.get_object()?;
        if !self.quiet {
            let (digest, media_type) = (object.get_digest()?.to_str()?, object.get_media_type()?);
            let media_type = media_type.to_str()?.escape_debug();
            writeln!(std::io::stderr(), "{digest} {media_type} {}", object.get_size())?;
        }
        let bytes = response.get()?.get_bytes()?;
        let mut out = std::io::stdout();
        let mut next = bytes.read_request().send().promise;
        loop {
            let response = session.client.call(next).await?;
            let piece = capstan_client::check!(response.get()?)?.get_bytes()?;
            if piece.is_empty() {
                return Ok(());
            }
            // One is read while one is written.
            next = bytes.read_request().send().promise;
            out.write_all(piece)?;
        }
    }
}

impl PushObject {
    pub(crate) async fn run(self, session: &Session) -> Outcome {
        let service: transfer::Client = session.open("transfer");
        let mut request = service.put_object_request();
        let mut params = request.get();
        params.set_reference(full_name(&self.reference));
        self.reach.write(&self.who, &self.reference, params.reborrow().init_access());
        let mut object = params.init_object();
        object.set_digest(&self.digest);
        object.set_media_type(&self.media_type);
        let response = call!(session, request);
        if session.is_json() {
            return print::json(response.get()?);
        }
        let Self { digest, media_type, .. } = self;
        Ok(writeln!(std::io::stdout(), "Pushed {digest} {media_type}")?)
    }
}
