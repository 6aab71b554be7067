//! `GcPolicy` of gc_policy.capnp.

use std::rc::Rc;

use capnp::capability::Client;
use capstan_schema::{Error, Result, gc_policy_capnp as wire, read_labels};

use super::{answer, length, text};
use crate::Link;
use crate::contract::GcPolicy;
use crate::contract::gc_policy::{Candidate, Judge, Verdict};

struct Server(Link<GcPolicy>);

/// The interface for one peer. To ask changes nothing.
pub fn serve(link: Link<GcPolicy>) -> Client {
    capnp_rpc::new_client::<wire::gc_policy::Client, _>(Server(link)).client
}

pub(crate) fn read_candidate(reader: wire::candidate::Reader<'_>) -> Result<Candidate> {
    Ok(Candidate {
        resource: text(reader.get_resource())?,
        size: reader.get_size_bytes(),
        last_used_unix_ns: reader.get_last_used_unix_ns(),
        labels: read_labels(reader.get_labels()?)?,
    })
}

impl wire::gc_policy::Server for Server {
    async fn judge(
        self: Rc<Self>,
        params: wire::gc_policy::JudgeParams,
        mut results: wire::gc_policy::JudgeResults,
    ) -> capnp::Result<()> {
        let work = async {
            let params = params.get()?;
            let candidates = params.get_candidates()?.iter().map(read_candidate);
            let judge = Judge {
                candidates: candidates.collect::<Result<Vec<_>>>()?,
                now_unix_ns: params.get_now_unix_ns(),
                total: params.get_total_bytes(),
            };
            let asked = judge.candidates.len();
            let verdicts = self.0.send(judge).await?;
            if verdicts.len() != asked {
                return Err(Error::internal(format!(
                    "{:?} gave {} verdicts on {asked} candidates",
                    self.0,
                    verdicts.len()
                )));
            }
            Ok(verdicts)
        };
        answer!(results, work, |out, verdicts| {
            let mut list = out.init_remove(length(&verdicts));
            for (index, verdict) in (0..).zip(&verdicts) {
                list.set(index, *verdict == Verdict::Remove);
            }
        })
    }
}
