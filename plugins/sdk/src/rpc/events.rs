//! `Events` and `Subscription` of event.capnp.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use capnp::capability::Client;
use capstan_schema::{Error, Namespace, Result, event_capnp as wire, read_texts};
use tokio::sync::watch;

use super::{answer, length, namespace, read_pairs, text, write_pairs};
use crate::Link;
use crate::contract::events::{Batch, Event, Filter, NewEvent, Publish, Read, Watch};
use crate::contract::{Events, Page};

struct Server {
    link: Link<Events>,
    namespace: Namespace,
}

/// The interface for one peer, bound to a namespace.
pub fn serve(link: Link<Events>, namespace: Namespace) -> Client {
    capnp_rpc::new_client::<wire::events::Client, _>(Server { link, namespace }).client
}

/// Reads an event of the log.
pub(crate) fn read_event(reader: wire::event::Reader<'_>) -> Result<Event> {
    Ok(Event {
        cursor: reader.get_cursor(),
        time_unix_ns: reader.get_time_unix_ns(),
        event: NewEvent {
            namespace: namespace(reader.get_namespace())?,
            topic: text(reader.get_topic())?,
            fields: read_pairs(reader.get_fields()?)?,
        },
    })
}

/// Writes an event of the log.
pub(crate) fn write_event(event: &Event, mut out: wire::event::Builder<'_>) {
    out.set_cursor(event.cursor);
    out.set_time_unix_ns(event.time_unix_ns);
    out.set_namespace(event.event.namespace.as_ref().map(Namespace::as_str).unwrap_or_default());
    out.set_topic(&event.event.topic);
    let fields = &event.event.fields;
    write_pairs(fields, out.init_fields(length(fields)));
}

/// A topic that a caller chose.
///
/// # Errors
/// `InvalidArgument`: it does not start with a slash.
pub(crate) fn read_topic(reader: capnp::Result<capnp::text::Reader<'_>>) -> Result<String> {
    let topic = text(reader)?;
    if !topic.starts_with('/') {
        return Err(Error::invalid(format!("topic {topic:?}: it must start with a slash")));
    }
    Ok(topic)
}

impl wire::events::Server for Server {
    async fn subscribe(
        self: Rc<Self>,
        params: wire::events::SubscribeParams,
        mut results: wire::events::SubscribeResults,
    ) -> capnp::Result<()> {
        let work = async {
            let params = params.get()?;
            let namespace = match params.get_all_namespaces() {
                true => None,
                false => Some(self.namespace.clone()),
            };
            let filter = Filter::new(namespace, read_texts(params.get_filters()?)?)?;
            let newest = self.link.send(Watch).await?;
            let head = *newest.borrow();
            let after = if params.get_from_now() { head } else { params.get_after() };
            if after > head {
                return Err(Error::precondition(format!(
                    "cursor {after} is none of this log, which ends at {head}: the one that it was of is lost; \
                     begin at 0, the oldest event that is kept"
                )));
            }
            let subscription = SubscriptionServer {
                link: self.link.clone(),
                filter,
                cursor: Cell::new(after),
                newest: RefCell::new(newest),
            };
            Ok((subscription, head))
        };
        answer!(results, work, |out, (subscription, head)| {
            out.set_cursor(head);
            out.set_subscription(capnp_rpc::new_client(subscription));
        })
    }

    async fn publish(
        self: Rc<Self>,
        params: wire::events::PublishParams,
        mut results: wire::events::PublishResults,
    ) -> capnp::Result<()> {
        let work = async {
            let params = params.get()?;
            let topic = read_topic(params.get_topic())?;
            let fields = read_pairs(params.get_fields()?)?;
            let event = NewEvent { namespace: Some(self.namespace.clone()), topic, fields };
            self.link.send(Publish(vec![event])).await
        };
        answer!(results, work, |out, cursor| out.set_cursor(cursor))
    }
}

struct SubscriptionServer {
    link: Link<Events>,
    filter: Filter,
    cursor: Cell<u64>,
    newest: RefCell<watch::Receiver<u64>>,
}

impl SubscriptionServer {
    async fn read(&self, limit: usize) -> Result<Batch> {
        let read = Read { after: self.cursor.get(), limit, filter: self.filter.clone() };
        let batch = self.link.send(read).await?;
        self.cursor.set(batch.cursor);
        Ok(batch)
    }

    /// Waits until the log is longer than what this reader has seen.
    async fn wait(&self) -> Result<()> {
        let mut newest = self.newest.borrow().clone();
        let seen = self.cursor.get();
        if newest.wait_for(|&head| head > seen).await.is_err() {
            // The plugin was restarted: ask the new instance.
            let fresh = self.link.send(Watch).await?;
            *self.newest.borrow_mut() = fresh;
        }
        Ok(())
    }

    async fn next(&self, limit: usize, wait: Duration) -> Result<Batch> {
        let deadline = tokio::time::Instant::now() + wait;
        let mut missed = 0;
        loop {
            let mut batch = self.read(limit).await?;
            missed += batch.missed;
            if !batch.events.is_empty() || missed > 0 || wait.is_zero() {
                batch.missed = missed;
                return Ok(batch);
            }
            match tokio::time::timeout_at(deadline, self.wait()).await {
                Ok(waited) => waited?,
                Err(_) => return Ok(batch),
            }
        }
    }
}

impl wire::subscription::Server for SubscriptionServer {
    async fn next(
        self: Rc<Self>,
        params: wire::subscription::NextParams,
        mut results: wire::subscription::NextResults,
    ) -> capnp::Result<()> {
        let work = async {
            let params = params.get()?;
            let limit = Page::new("", params.get_limit()).limit;
            let wait = Duration::from_millis(u64::from(params.get_wait_millis()));
            SubscriptionServer::next(&self, limit, wait).await
        };
        answer!(results, work, |out, batch| {
            out.set_missed(batch.missed);
            let mut list = out.init_events(length(&batch.events));
            for (index, event) in (0..).zip(&batch.events) {
                write_event(event, list.reborrow().get(index));
            }
        })
    }
}
