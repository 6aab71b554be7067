//! `capstan events`.

use std::io::Write as _;

use capstan_client::schema::event_capnp::{event, events};
use capstan_client::schema::write_texts;

use crate::exit::Outcome;
use crate::print;
use crate::session::{Session, call};

/// How long one call waits for the next event. Short enough that a daemon that went away without
/// closing the connection is noticed.
const WAIT_MILLIS: u32 = 30_000;

#[derive(Debug, clap::Args)]
pub(crate) struct Events {
    /// Start behind this cursor; 0 is the oldest event that is kept
    #[arg(long, value_name = "CURSOR")]
    since: Option<u64>,
    /// Go on with what happens; without --since or --no-follow this is the default
    #[arg(long)]
    follow: bool,
    /// Stop at the newest event
    #[arg(long, conflicts_with = "follow")]
    no_follow: bool,
    /// Events of all namespaces
    #[arg(long)]
    all_namespaces: bool,
    /// The start of topics, such as /tasks/
    #[arg(value_name = "FILTER")]
    filters: Vec<String>,
}

impl Events {
    pub(crate) async fn run(self, session: &Session) -> Outcome {
        let is_followed = self.follow || (self.since.is_none() && !self.no_follow);
        let service: events::Client = session.open("events");
        let mut request = service.subscribe_request();
        let mut params = request.get();
        params.set_after(self.since.unwrap_or(0));
        params.set_from_now(self.since.is_none() && is_followed);
        params.set_all_namespaces(self.all_namespaces);
        let count = u32::try_from(self.filters.len()).unwrap_or(u32::MAX);
        write_texts(&self.filters, params.init_filters(count));
        let response = call!(session, request);
        let subscription = response.get()?.get_subscription()?;
        if !session.is_json() {
            println(&format!(
                "{:<8} {:<24} {:<12} {:<22} EVENT",
                "CURSOR", "TIME", "NAMESPACE", "TOPIC"
            ))?;
        }
        loop {
            let mut request = subscription.next_request();
            request.get().set_wait_millis(if is_followed { WAIT_MILLIS } else { 0 });
            let response = call!(session, request);
            let reply = response.get()?;
            if reply.get_missed() > 0 {
                eprintln!(
                    "capstan: {} events were trimmed before they were read",
                    reply.get_missed()
                );
            }
            let events = reply.get_events()?;
            if events.is_empty() && !is_followed {
                return Ok(());
            }
            for event in events {
                if session.is_json() {
                    print::json_line(event)?;
                } else {
                    println(&line(event)?)?;
                }
            }
        }
    }
}

fn println(line: &str) -> Outcome {
    Ok(writeln!(std::io::stdout(), "{line}")?)
}

fn line(event: event::Reader<'_>) -> Outcome<String> {
    let mut fields = Vec::new();
    for field in event.get_fields()? {
        fields.push(format!("{}={}", field.get_key()?.to_str()?, field.get_value()?.to_str()?));
    }
    let line = format!(
        "{:<8} {:<24} {:<12} {:<22} {}",
        event.get_cursor(),
        print::time(event.get_time_unix_ns()),
        event.get_namespace()?.to_str()?,
        event.get_topic()?.to_str()?,
        fields.join(" "),
    );
    Ok(line.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect())
}
