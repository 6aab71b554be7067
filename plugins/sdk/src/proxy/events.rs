//! Kind `events`, from `EventLog` of event.capnp.

use actix::{Context as Cell, Handler, ResponseFuture};
use capstan_schema::{Namespace, Result, event_capnp as wire, write_texts};
use tokio::sync::watch;

use crate::contract::events::{Batch, Filter, NewEvent, Publish, Read, Watch};
use crate::contract::{Events, Page};
use crate::outside::{Far, Proxy, call};
use crate::rpc::events::read_event;
use crate::rpc::{length, write_pairs};

type Client = wire::event_log::Client;
type This = Proxy<Events>;

fn name(namespace: Option<&Namespace>) -> &str {
    namespace.map(Namespace::as_str).unwrap_or_default()
}

/// Writes events that are to be logged.
pub(super) fn write_new_events(
    events: &[NewEvent],
    mut list: capnp::struct_list::Builder<'_, wire::new_event::Owned>,
) {
    for (index, event) in (0..).zip(events) {
        let mut out = list.reborrow().get(index);
        out.set_namespace(name(event.namespace.as_ref()));
        out.set_topic(&event.topic);
        write_pairs(&event.fields, out.init_fields(length(&event.fields)));
    }
}

async fn read(far: &Far, client: &Client, read: &Read) -> Result<Batch> {
    if read.limit == 0 {
        // On the wire it would mean as many as usual.
        return Ok(Batch { cursor: read.after, ..Batch::default() });
    }
    let limit = read.limit.min(Page::MAX_LIMIT);
    let mut request = client.read_request();
    let mut params = request.get();
    params.set_after(read.after);
    params.set_limit(u32::try_from(limit).expect("at most a thousand"));
    params.set_namespace(name(read.filter.namespace.as_ref()));
    write_texts(&read.filter.topics, params.init_topics(length(&read.filter.topics)));
    call!(far, request, |results| Ok(Batch {
        events: results.get_events()?.iter().map(read_event).collect::<Result<_>>()?,
        cursor: results.get_cursor(),
        missed: results.get_missed(),
    }))
}

async fn head(far: &Far, client: &Client, beyond: u64) -> Result<u64> {
    let mut request = client.head_request();
    request.get().set_beyond(beyond);
    call!(far, request, |results| Ok(results.get_cursor()))
}

/// The newest cursor now; 0 if nothing was ever logged, for which `head` would wait.
async fn head_now(far: &Far, client: &Client) -> Result<u64> {
    let oldest = read(far, client, &Read { after: 0, limit: 1, filter: Filter::default() }).await?;
    match oldest.events.is_empty() && oldest.cursor == 0 {
        true => Ok(0),
        false => head(far, client, 0).await,
    }
}

/// Keeps a view of the newest cursor, until nobody looks or the far end breaks off. Who looks then sees the
/// channel closed, and watches anew.
async fn follow(far: Far, client: Client, newest: watch::Sender<u64>) {
    loop {
        let seen = *newest.borrow();
        let next = tokio::select! {
            next = head(&far, &client, seen) => next,
            () = newest.closed() => return,
        };
        match next {
            Ok(next) if next > seen => newest.send_replace(next),
            // An answer that is not beyond what was asked for would be asked for for ever.
            Ok(_) | Err(_) => return,
        };
    }
}

impl Handler<Publish> for This {
    type Result = ResponseFuture<Result<u64>>;
    fn handle(&mut self, Publish(events): Publish, _: &mut Cell<Self>) -> Self::Result {
        let far = self.far.clone();
        Box::pin(async move {
            let client: Client = far.open(None).await?;
            let mut request = client.publish_request();
            write_new_events(&events, request.get().init_events(length(&events)));
            call!(far, request, |results| Ok(results.get_cursor()))
        })
    }
}

impl Handler<Read> for This {
    type Result = ResponseFuture<Result<Batch>>;
    fn handle(&mut self, message: Read, _: &mut Cell<Self>) -> Self::Result {
        let far = self.far.clone();
        Box::pin(async move {
            let client: Client = far.open(None).await?;
            read(&far, &client, &message).await
        })
    }
}

impl Handler<Watch> for This {
    type Result = ResponseFuture<Result<watch::Receiver<u64>>>;
    fn handle(&mut self, _: Watch, _: &mut Cell<Self>) -> Self::Result {
        let far = self.far.clone();
        Box::pin(async move {
            let client: Client = far.open(None).await?;
            let (sender, receiver) = watch::channel(head_now(&far, &client).await?);
            tokio::task::spawn_local(follow(far, client, sender));
            Ok(receiver)
        })
    }
}

#[cfg(test)]
mod tests {
    use actix::Actor;
    use capstan_schema::Class;

    use super::*;
    use crate::Link;
    use crate::contract::events::{Event, EventsAddr};
    use crate::outside::across;

    /// A log in memory.
    #[derive(Default)]
    struct Log {
        events: Vec<Event>,
        newest: watch::Sender<u64>,
    }

    impl Actor for Log {
        type Context = Cell<Self>;
    }

    impl Handler<Publish> for Log {
        type Result = Result<u64>;
        fn handle(&mut self, Publish(events): Publish, _: &mut Cell<Self>) -> Self::Result {
            for event in events {
                let cursor = self.newest.borrow().to_owned() + 1;
                self.newest.send_replace(cursor);
                self.events.push(Event { cursor, time_unix_ns: 5, event });
            }
            Ok(self.newest.borrow().to_owned())
        }
    }

    impl Handler<Read> for Log {
        type Result = Result<Batch>;
        fn handle(&mut self, read: Read, _: &mut Cell<Self>) -> Self::Result {
            let is_wanted =
                |event: &&Event| event.cursor > read.after && read.filter.matches(&event.event);
            let events: Vec<Event> =
                self.events.iter().filter(is_wanted).take(read.limit).cloned().collect();
            let cursor = events.last().map_or(read.after, |event| event.cursor);
            Ok(Batch { events, cursor, missed: 3 })
        }
    }

    /// A message of the test: whoever watches is to watch anew.
    struct Restart;

    impl actix::Message for Restart {
        type Result = ();
    }

    impl Handler<Restart> for Log {
        type Result = ();
        fn handle(&mut self, _: Restart, _: &mut Cell<Self>) {
            let head = *self.newest.borrow();
            self.newest = watch::Sender::new(head);
        }
    }

    impl Handler<Watch> for Log {
        type Result = Result<watch::Receiver<u64>>;
        fn handle(&mut self, _: Watch, _: &mut Cell<Self>) -> Self::Result {
            Ok(self.newest.subscribe())
        }
    }

    fn run<F: Future<Output = ()>>(test: impl FnOnce(actix::Addr<Log>, Link<Events>) -> F) {
        actix_rt::System::new().block_on(async {
            let log = Log::default().start();
            let link = across(EventsAddr::from(&log), None);
            test(log, link).await;
        });
    }

    fn event(topic: &str) -> NewEvent {
        NewEvent::new(&Namespace::parse("a").unwrap(), topic).with("b", 1).with("a", 2)
    }

    #[test]
    fn events_are_read_as_they_were_published() {
        run(async |_, link| {
            let global = NewEvent { namespace: None, ..event("/y/z") };
            let events = vec![event("/x/y"), global.clone()];
            assert_eq!(link.send(Publish(events.clone())).await.unwrap(), 2);
            let read = Read { after: 0, limit: usize::MAX, filter: Filter::default() };
            let batch = link.send(read).await.unwrap();
            assert_eq!((batch.cursor, batch.missed), (2, 3));
            let found: Vec<NewEvent> = batch.events.iter().map(|e| e.event.clone()).collect();
            assert_eq!(found, events);
            assert_eq!((batch.events[1].cursor, batch.events[1].time_unix_ns), (2, 5));
            let filter = Filter::new(None, vec!["/y/".into()]).unwrap();
            let batch = link.send(Read { after: 0, limit: 1, filter }).await.unwrap();
            assert_eq!(batch.events[0].event, global);
            let error = link.send(Publish(vec![event("x")])).await.unwrap_err();
            assert_eq!(error.class(), Class::InvalidArgument);
        });
    }

    #[test]
    fn a_watch_follows_the_log() {
        run(async |log, link| {
            let mut newest = link.send(Watch).await.unwrap();
            assert_eq!(newest.borrow_and_update().to_owned(), 0);
            for cursor in 1..4 {
                link.send(Publish(vec![event("/x/y")])).await.unwrap();
                newest.changed().await.unwrap();
                assert_eq!(newest.borrow_and_update().to_owned(), cursor);
            }
            // The log is made anew while a call for its head waits.
            log.send(Restart).await.unwrap();
            link.send(Publish(vec![event("/x/y")])).await.unwrap();
            newest.changed().await.unwrap();
            assert_eq!(newest.borrow_and_update().to_owned(), 4);
            let second = link.send(Watch).await.unwrap();
            assert_eq!(second.borrow().to_owned(), 4);
        });
    }
}
