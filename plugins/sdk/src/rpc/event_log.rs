//! `EventLog` of event.capnp.

use std::rc::Rc;
use std::sync::Arc;

use capnp::capability::Client;
use capstan_schema::{Result, event_capnp as wire, read_texts};

use super::events::{read_topic, write_event};
use super::reach::Reach;
use super::{answer, length, namespace, read_pairs};
use crate::Link;
use crate::contract::events::{Filter, NewEvent, Publish, Read, Watch};
use crate::contract::{Events, Page};

struct Server {
    link: Link<Events>,
    reach: Option<Reach>,
}

/// The interface for one plugin; if it is `confined` it logs topics of its own kind alone.
pub fn serve(link: Link<Events>, confined: Option<Arc<str>>) -> Client {
    let server = Server { link, reach: confined.map(Reach::new) };
    capnp_rpc::new_client::<wire::event_log::Client, _>(server).client
}

/// Reads events that are to be logged.
///
/// # Errors
/// `InvalidArgument`: a topic that does not start with a slash.
pub(crate) fn read_new_events(
    list: capnp::struct_list::Reader<'_, wire::new_event::Owned>,
) -> Result<Vec<NewEvent>> {
    let read = |event: wire::new_event::Reader<'_>| {
        Ok(NewEvent {
            namespace: namespace(event.get_namespace())?,
            topic: read_topic(event.get_topic())?,
            fields: read_pairs(event.get_fields()?)?,
        })
    };
    list.iter().map(read).collect()
}

impl Server {
    /// The newest cursor, once it is beyond another.
    async fn head(&self, beyond: u64) -> Result<u64> {
        loop {
            let mut newest = self.link.send(Watch).await?;
            // It fails if the plugin ended: the next instance is asked, which the link waits for.
            if let Ok(head) = newest.wait_for(|&head| head > beyond).await {
                return Ok(*head);
            }
        }
    }
}

impl wire::event_log::Server for Server {
    async fn publish(
        self: Rc<Self>,
        params: wire::event_log::PublishParams,
        mut results: wire::event_log::PublishResults,
    ) -> capnp::Result<()> {
        let work = async {
            let events = read_new_events(params.get()?.get_events()?)?;
            if let Some(reach) = &self.reach {
                events.iter().try_for_each(|event| reach.check_event(event))?;
            }
            self.link.send(Publish(events)).await
        };
        answer!(results, work, |out, cursor| out.set_cursor(cursor))
    }

    async fn read(
        self: Rc<Self>,
        params: wire::event_log::ReadParams,
        mut results: wire::event_log::ReadResults,
    ) -> capnp::Result<()> {
        let work = async {
            let params = params.get()?;
            let topics = read_texts(params.get_topics()?)?;
            let read = Read {
                after: params.get_after(),
                limit: Page::new("", params.get_limit()).limit,
                filter: Filter::new(namespace(params.get_namespace())?, topics)?,
            };
            self.link.send(read).await
        };
        answer!(results, work, |out, batch| {
            out.set_cursor(batch.cursor);
            out.set_missed(batch.missed);
            let mut list = out.init_events(length(&batch.events));
            for (index, event) in (0..).zip(&batch.events) {
                write_event(event, list.reborrow().get(index));
            }
        })
    }

    async fn head(
        self: Rc<Self>,
        params: wire::event_log::HeadParams,
        mut results: wire::event_log::HeadResults,
    ) -> capnp::Result<()> {
        let work = async { Server::head(&self, params.get()?.get_beyond()).await };
        answer!(results, work, |out, cursor| out.set_cursor(cursor))
    }
}
