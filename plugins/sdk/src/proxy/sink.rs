//! Kind `sink`, from `Sink` of sink.capnp.

use actix::{Context as Cell, Handler, ResponseFuture};
use capstan_schema::Result;
use capstan_schema::sink_capnp as wire;

use crate::contract::Sink;
use crate::contract::sink::Deliver;
use crate::outside::{Proxy, call};
use crate::rpc::events::write_event;
use crate::rpc::length;

impl Handler<Deliver> for Proxy<Sink> {
    type Result = ResponseFuture<Result<()>>;
    fn handle(&mut self, Deliver(events): Deliver, _: &mut Cell<Self>) -> Self::Result {
        let far = self.far.clone();
        Box::pin(async move {
            let client: wire::sink::Client = far.open(None).await?;
            let mut request = client.deliver_request();
            let mut list = request.get().init_events(length(&events));
            for (index, event) in (0..).zip(&events) {
                write_event(event, list.reborrow().get(index));
            }
            call!(far, request)
        })
    }
}
