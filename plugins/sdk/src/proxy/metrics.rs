//! Kind `metrics`, from `Metrics` of metrics.capnp.

use actix::{Context as Cell, Handler, ResponseFuture};
use capstan_schema::Result;
use capstan_schema::metrics_capnp as wire;

use crate::contract::Metrics;
use crate::contract::metrics::{Collect, Sample};
use crate::outside::{Proxy, call};

impl Handler<Collect> for Proxy<Metrics> {
    type Result = ResponseFuture<Result<Vec<Sample>>>;
    fn handle(&mut self, _: Collect, _: &mut Cell<Self>) -> Self::Result {
        let far = self.far.clone();
        Box::pin(async move {
            let client: wire::metrics::Client = far.open(None).await?;
            let request = client.collect_request();
            call!(far, request, |results| results.get_samples()?.iter().map(Sample::read).collect())
        })
    }
}
