//! A plugin's log, forwarded into the daemon's: `tracing` in the plugin, `tracing` in the daemon.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use capstan_schema::plugin_capnp::{LogLevel, host};
use tokio::sync::mpsc;
use tracing::field::{Field, Visit};
use tracing::span;
use tracing::{Event, Level, Metadata, Subscriber};

/// Records on their way. What comes while so many wait is dropped and counted: a plugin that logs in a
/// loop costs others nothing.
const QUEUE: usize = 256;
/// Records in one message.
const BATCH: usize = 64;

struct Record {
    level: LogLevel,
    target: String,
    text: String,
}

/// The one subscriber of this image. Its queue is that of the last instance that was started.
static QUEUE_IN_USE: Mutex<Option<mpsc::Sender<Record>>> = Mutex::new(None);
static DROPPED: AtomicU64 = AtomicU64::new(0);
static LEVEL: AtomicU8 = AtomicU8::new(0);

/// Sends what is logged from now on to the daemon.
pub(super) fn forward(host: &host::Client, least: LogLevel) {
    let (sender, mut receiver) = mpsc::channel(QUEUE);
    *QUEUE_IN_USE.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender);
    LEVEL.store(rank(least), Ordering::Relaxed);
    // It fails if a plugin set one of its own, or an instance before did this.
    let _ = tracing::subscriber::set_global_default(Forward);
    tracing::callsite::rebuild_interest_cache();
    let host = host.clone();
    tokio::task::spawn_local(async move {
        let mut batch = Vec::new();
        while receiver.recv_many(&mut batch, BATCH).await > 0 {
            let mut request = host.log_request();
            let mut params = request.get();
            params.set_dropped(DROPPED.swap(0, Ordering::Relaxed));
            let mut list = params.init_records(crate::rpc::length(&batch));
            for (index, record) in (0..).zip(batch.drain(..)) {
                let mut out = list.reborrow().get(index);
                out.set_level(record.level);
                out.set_target(&record.target);
                out.set_text(&record.text);
            }
            if request.send().promise.await.is_err() {
                return;
            }
        }
    });
}

fn rank(level: LogLevel) -> u8 {
    level as u8
}

fn level(level: Level) -> LogLevel {
    match level {
        Level::ERROR => LogLevel::Error,
        Level::WARN => LogLevel::Warn,
        Level::INFO => LogLevel::Info,
        Level::DEBUG => LogLevel::Debug,
        Level::TRACE => LogLevel::Trace,
    }
}

/// Spans are left out: a record is one line.
struct Forward;

impl Subscriber for Forward {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        rank(level(*metadata.level())) <= LEVEL.load(Ordering::Relaxed)
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut text = Text::default();
        event.record(&mut text);
        let record = Record {
            level: level(*event.metadata().level()),
            target: event.metadata().target().into(),
            text: text.message + &text.fields,
        };
        let queue = QUEUE_IN_USE.lock().unwrap_or_else(PoisonError::into_inner);
        let sent = queue.as_ref().map(|queue| queue.try_send(record));
        if !matches!(sent, Some(Ok(()))) {
            DROPPED.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

/// An event as text: the message, then `key=value`.
#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        // Writing to a string does not fail.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}
