//! `Metrics` of metrics.capnp.

use std::rc::Rc;

use capnp::capability::Client;
use capstan_schema::metrics_capnp as wire;

use super::{answer, length};
use crate::Link;
use crate::contract::Metrics;
use crate::contract::metrics::{Collect, Sample};

struct Server(Link<Metrics>);

/// The interface for one peer. Samples are checked: what a peer gets can be printed as it is.
pub fn serve(link: Link<Metrics>) -> Client {
    capnp_rpc::new_client::<wire::metrics::Client, _>(Server(link)).client
}

/// Fills a list that was made as long as `samples`.
pub(crate) fn write_samples(
    samples: &[Sample],
    mut list: capnp::struct_list::Builder<'_, wire::sample::Owned>,
) {
    for (index, sample) in (0..).zip(samples) {
        sample.write(list.reborrow().get(index));
    }
}

impl wire::metrics::Server for Server {
    async fn collect(
        self: Rc<Self>,
        _params: wire::metrics::CollectParams,
        mut results: wire::metrics::CollectResults,
    ) -> capnp::Result<()> {
        let work = async {
            let samples = self.0.send(Collect).await?;
            samples.iter().try_for_each(Sample::check)?;
            Ok(samples)
        };
        answer!(results, work, |out, samples| write_samples(
            &samples,
            out.init_samples(length(&samples))
        ))
    }
}
