//! Kind `verifier`, from `Verifier` of verifier.capnp.

use actix::{Context as Cell, Handler, ResponseFuture};
use capstan_schema::Result;
use capstan_schema::verifier_capnp as wire;

use super::labels;
use crate::contract::Verifier;
use crate::contract::verifier::{Ask, Verdict, Verify};
use crate::outside::{Proxy, call};
use crate::rpc::length;

impl Handler<Ask> for Proxy<Verifier> {
    type Result = ResponseFuture<Result<bool>>;
    fn handle(&mut self, ask: Ask, _: &mut Cell<Self>) -> Self::Result {
        let far = self.far.clone();
        Box::pin(async move {
            let client: wire::verifier::Client = far.open(None).await?;
            let mut request = client.ask_request();
            let mut params = request.get();
            params.set_namespace(ask.namespace.as_str());
            params.set_name(&ask.name);
            call!(far, request, |results| Ok(results.get_wants_evidence()))
        })
    }
}

impl Handler<Verify> for Proxy<Verifier> {
    type Result = ResponseFuture<Result<Verdict>>;
    fn handle(&mut self, verify: Verify, _: &mut Cell<Self>) -> Self::Result {
        let far = self.far.clone();
        Box::pin(async move {
            let client: wire::verifier::Client = far.open(None).await?;
            let mut request = client.verify_request();
            let mut params = request.get();
            params.set_namespace(verify.namespace.as_str());
            params.set_name(&verify.name);
            verify.target.write(params.reborrow().init_target());
            params.set_document(&verify.document);
            let mut list = params.init_evidence(length(&verify.evidence));
            for (index, evidence) in (0..).zip(&verify.evidence) {
                let mut out = list.reborrow().get(index);
                out.set_artifact_type(&evidence.artifact_type);
                out.set_media_type(&evidence.media_type);
                out.set_payload(&evidence.payload);
                labels(&evidence.annotations, |count| out.init_annotations(count));
            }
            call!(far, request, |results| Ok(match results.get_refused() {
                true => Verdict::Refused(results.get_reason()?.to_string()?),
                false => Verdict::Accepted,
            }))
        })
    }
}
