//! `Sink` of sink.capnp.

use std::rc::Rc;

use capnp::capability::Client;
use capstan_schema::{Error, Result, event_capnp::event, sink_capnp as wire};

use super::answer;
use super::events::read_event;
use crate::Link;
use crate::contract::Sink;
use crate::contract::events::Event;
use crate::contract::sink::Deliver;

struct Server(Link<Sink>);

/// The interface for one peer.
pub fn serve(link: Link<Sink>) -> Client {
    capnp_rpc::new_client::<wire::sink::Client, _>(Server(link)).client
}

/// Reads a batch, whose cursors must grow.
pub(crate) fn read_batch(list: capnp::struct_list::Reader<'_, event::Owned>) -> Result<Vec<Event>> {
    let events = list.iter().map(read_event).collect::<Result<Vec<_>>>()?;
    if let Some(pair) = events.windows(2).find(|pair| pair[0].cursor >= pair[1].cursor) {
        return Err(Error::invalid(format!(
            "event {} comes behind event {}: deliver events in the order of their cursors",
            pair[1].cursor, pair[0].cursor
        )));
    }
    Ok(events)
}

impl wire::sink::Server for Server {
    async fn deliver(
        self: Rc<Self>,
        params: wire::sink::DeliverParams,
        mut results: wire::sink::DeliverResults,
    ) -> capnp::Result<()> {
        let work = async { self.0.send(Deliver(read_batch(params.get()?.get_events()?)?)).await };
        answer!(results, work)
    }
}

#[cfg(test)]
mod tests {
    use capstan_schema::{Class, Namespace};

    use super::*;
    use crate::contract::events::NewEvent;
    use crate::rpc::events::write_event;

    fn round_trip(events: &[Event]) -> Result<Vec<Event>> {
        let mut message = capnp::message::Builder::new_default();
        let params = message.init_root::<wire::sink::deliver_params::Builder<'_>>();
        let mut list = params.init_events(u32::try_from(events.len()).unwrap());
        for (index, event) in (0..).zip(events) {
            write_event(event, list.reborrow().get(index));
        }
        read_batch(list.into_reader())
    }

    #[test]
    fn a_batch_arrives_as_it_was_sent() {
        let namespace = Namespace::parse("default").unwrap();
        let mine = NewEvent::new(&namespace, "/tasks/exit").with("id", "web").with("at", "");
        let ours = NewEvent { namespace: None, topic: "/x".into(), fields: vec![] };
        let events = [
            Event { cursor: 7, time_unix_ns: -1, event: mine },
            Event { cursor: 9, time_unix_ns: 2, event: ours },
        ];
        assert_eq!(round_trip(&events).unwrap(), events);
        assert_eq!(round_trip(&[]).unwrap(), []);
        let [one, two] = events;
        for wrong in [[two.clone(), one.clone()], [one.clone(), one]] {
            assert_eq!(round_trip(&wrong).unwrap_err().class(), Class::InvalidArgument);
        }
    }
}
