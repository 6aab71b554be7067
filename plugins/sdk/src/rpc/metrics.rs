//! `Metrics` of metrics.capnp.

use std::rc::Rc;

use capnp::capability::Client;
use capstan_schema::metrics_capnp as wire;

use super::{answer, length, write_pairs};
use crate::Link;
use crate::contract::Metrics;
use crate::contract::metrics::{Collect, Kind, Sample};

struct Server(Link<Metrics>);

/// The interface for one peer. Samples are checked: what a peer gets can be printed as it is.
pub fn serve(link: Link<Metrics>) -> Client {
    capnp_rpc::new_client::<wire::metrics::Client, _>(Server(link)).client
}

pub(crate) fn write_sample(sample: &Sample, mut out: wire::sample::Builder<'_>) {
    out.set_name(&sample.name);
    out.set_help(&sample.help);
    out.set_kind(match sample.kind {
        Kind::Counter => wire::SampleKind::Counter,
        Kind::Gauge => wire::SampleKind::Gauge,
    });
    out.set_value(sample.value);
    write_pairs(&sample.labels, out.init_labels(length(&sample.labels)));
}

/// Fills a list that was made as long as `samples`.
pub(crate) fn write_samples(
    samples: &[Sample],
    mut list: capnp::struct_list::Builder<'_, wire::sample::Owned>,
) {
    for (index, sample) in (0..).zip(samples) {
        write_sample(sample, list.reborrow().get(index));
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
