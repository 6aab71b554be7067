//! `Verifier` of verifier.capnp.

use std::rc::Rc;

use capnp::capability::Client;
use capstan_schema::{Descriptor, Error, Namespace, Result, read_labels, verifier_capnp as wire};

use super::{answer, text};
use crate::Link;
use crate::contract::Verifier;
use crate::contract::verifier::{Ask, Evidence, MAX_EVIDENCE, Verdict, Verify};

struct Server(Link<Verifier>);

/// The interface for one peer. To ask changes nothing.
pub fn serve(link: Link<Verifier>) -> Client {
    capnp_rpc::new_client::<wire::verifier::Client, _>(Server(link)).client
}

fn read_evidence(reader: wire::evidence::Reader<'_>) -> Result<Evidence> {
    Ok(Evidence {
        artifact_type: text(reader.get_artifact_type())?,
        media_type: text(reader.get_media_type())?,
        payload: reader.get_payload()?.to_owned(),
        annotations: read_labels(reader.get_annotations()?)?,
    })
}

fn read_verify(params: wire::verifier::verify_params::Reader<'_>) -> Result<Verify> {
    let evidence = params.get_evidence()?;
    if evidence.len() as usize > MAX_EVIDENCE {
        let count = evidence.len();
        return Err(Error::invalid(format!("{count} pieces of evidence; at most {MAX_EVIDENCE}")));
    }
    Ok(Verify {
        namespace: Namespace::parse(&text(params.get_namespace())?)?,
        name: text(params.get_name())?,
        target: Descriptor::read(params.get_target()?)?,
        document: params.get_document()?.to_owned(),
        evidence: evidence.iter().map(read_evidence).collect::<Result<_>>()?,
    })
}

impl wire::verifier::Server for Server {
    async fn ask(
        self: Rc<Self>,
        params: wire::verifier::AskParams,
        mut results: wire::verifier::AskResults,
    ) -> capnp::Result<()> {
        let work = async {
            let params = params.get()?;
            let namespace = Namespace::parse(&text(params.get_namespace())?)?;
            self.0.send(Ask { namespace, name: text(params.get_name())? }).await
        };
        answer!(results, work, |out, wants| out.set_wants_evidence(wants))
    }

    async fn verify(
        self: Rc<Self>,
        params: wire::verifier::VerifyParams,
        mut results: wire::verifier::VerifyResults,
    ) -> capnp::Result<()> {
        let work = async { self.0.send(read_verify(params.get()?)?).await };
        answer!(results, work, |out, verdict| match verdict {
            Verdict::Accepted => out.set_refused(false),
            Verdict::Refused(reason) => {
                out.set_refused(true);
                out.set_reason(&reason);
            }
        })
    }
}
