//! Kind `gc-policy`, from `GcPolicy` of gc_policy.capnp.

use actix::{Context as Cell, Handler, ResponseFuture};
use capstan_schema::gc_policy_capnp as wire;
use capstan_schema::{Error, Result};

use super::labels;
use crate::contract::GcPolicy;
use crate::contract::gc_policy::{Judge, Verdict};
use crate::outside::{Proxy, call};
use crate::rpc::length;

impl Handler<Judge> for Proxy<GcPolicy> {
    type Result = ResponseFuture<Result<Vec<Verdict>>>;
    fn handle(&mut self, judge: Judge, _: &mut Cell<Self>) -> Self::Result {
        let far = self.far.clone();
        Box::pin(async move {
            let client: wire::gc_policy::Client = far.open(None).await?;
            let mut request = client.judge_request();
            let mut params = request.get();
            params.set_now_unix_ns(judge.now_unix_ns);
            params.set_total_bytes(judge.total);
            let mut list = params.init_candidates(length(&judge.candidates));
            for (index, candidate) in (0..).zip(&judge.candidates) {
                let mut out = list.reborrow().get(index);
                out.set_resource(&candidate.resource);
                out.set_size_bytes(candidate.size);
                out.set_last_used_unix_ns(candidate.last_used_unix_ns);
                labels(&candidate.labels, |count| out.init_labels(count));
            }
            let verdict = |remove| if remove { Verdict::Remove } else { Verdict::Keep };
            let verdicts: Vec<Verdict> = call!(far, request, |results| Ok(results
                .get_remove()?
                .iter()
                .map(verdict)
                .collect()))?;
            match verdicts.len() == judge.candidates.len() {
                true => Ok(verdicts),
                false => Err(Error::internal("a gc policy gave not one verdict per candidate")),
            }
        })
    }
}
