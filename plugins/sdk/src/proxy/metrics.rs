//! Kind `metrics`, from `Metrics` of metrics.capnp.

use actix::{Context as Cell, Handler, ResponseFuture};
use capstan_schema::Result;
use capstan_schema::metrics_capnp as wire;

use crate::contract::Metrics;
use crate::contract::metrics::{Collect, Kind, Sample};
use crate::outside::{Proxy, call};
use crate::rpc::{read_pairs, text};

pub(super) fn read_sample(reader: wire::sample::Reader<'_>) -> Result<Sample> {
    Ok(Sample {
        name: text(reader.get_name())?,
        help: text(reader.get_help())?,
        kind: match reader.get_kind().map_err(capnp::Error::from)? {
            wire::SampleKind::Counter => Kind::Counter,
            wire::SampleKind::Gauge => Kind::Gauge,
        },
        labels: read_pairs(reader.get_labels()?)?,
        value: reader.get_value(),
    })
}

impl Handler<Collect> for Proxy<Metrics> {
    type Result = ResponseFuture<Result<Vec<Sample>>>;
    fn handle(&mut self, _: Collect, _: &mut Cell<Self>) -> Self::Result {
        let far = self.far.clone();
        Box::pin(async move {
            let client: wire::metrics::Client = far.open(None).await?;
            let request = client.collect_request();
            call!(far, request, |results| results.get_samples()?.iter().map(read_sample).collect())
        })
    }
}
