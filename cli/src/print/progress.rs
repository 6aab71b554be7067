//! The progress of a transfer: on a terminal a line for each thing that is done, a bar for each that is under way, and a
//! line that adds up; objects for programs; nothing otherwise.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::rc::Rc;
use std::time::{Duration, Instant};

use capstan_client::schema::transfer_capnp::{ItemState, progress};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::size;

/// A bar with its name, how far it is, and how fast.
const BAR: &str = "{prefix:24} {msg:11} [{bar:30}] {bytes:>10}/{total_bytes:<10} {bytes_per_sec}";

/// The last line, while things are under way.
const SUM: &str = "{prefix:24} {msg:11} [{bar:30}] {bytes:>10}/{total_bytes:<10} {elapsed}";

/// How often the last line is drawn.
const TICK: Duration = Duration::from_millis(250);

/// Shows what the daemon tells of one transfer.
pub(crate) struct TransferProgress(Rc<Screen>);

impl TransferProgress {
    /// Lines on a terminal; with JSON one object a line; else silent.
    pub(crate) fn new(is_json: bool) -> Self {
        let is_shown = !is_json && std::io::stderr().is_terminal();
        let target =
            if is_shown { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        Self(Rc::new(Screen {
            lines: MultiProgress::with_draw_target(target),
            things: RefCell::default(),
            sum: RefCell::default(),
            begun: Instant::now(),
            is_json,
        }))
    }

    /// For the daemon.
    pub(crate) fn client(&self) -> progress::Client {
        capnp_rpc::new_client(Sink(Rc::clone(&self.0)))
    }

    /// It worked: says how long it took, and how much it was.
    pub(crate) fn finish(self) {
        if let Some(sum) = self.0.sum.take() {
            sum.finish_and_clear();
            let moved = self.0.things.borrow().values().map(|thing| thing.moved).sum();
            let _ = self.0.lines.println(summary(self.0.begun.elapsed(), moved));
        }
    }
}

impl Drop for TransferProgress {
    /// Leaves the lines of what is done, and makes room for what is said of the rest.
    fn drop(&mut self) {
        let mut things = self.0.things.borrow_mut();
        let bars = things.values_mut().filter_map(|thing| thing.bar.take());
        for bar in bars.chain(self.0.sum.take()) {
            bar.finish_and_clear();
        }
    }
}

/// How long, how much, and how fast.
fn summary(elapsed: Duration, bytes: u64) -> String {
    let millis = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX).max(1);
    let rate = bytes.saturating_mul(1000) / millis;
    format!("elapsed: {:.1} s  total: {}  ({}/s)", elapsed.as_secs_f64(), size(bytes), size(rate))
}

struct Screen {
    lines: MultiProgress,
    things: RefCell<BTreeMap<String, Thing>>,
    /// What adds up, from the first thing on.
    sum: RefCell<Option<ProgressBar>>,
    begun: Instant,
    is_json: bool,
}

/// One descriptor.
#[derive(Default)]
struct Thing {
    /// While it is under way.
    bar: Option<ProgressBar>,
    is_over: bool,
    total: u64,
    /// Bytes that went over the wire.
    moved: u64,
}

/// The word for a state, and whether nothing more comes.
fn word(state: ItemState) -> (&'static str, bool) {
    match state {
        ItemState::Waiting => ("waiting", false),
        ItemState::Downloading => ("downloading", false),
        ItemState::Extracting => ("extracting", false),
        ItemState::Uploading => ("uploading", false),
        ItemState::Resolving => ("resolving", false),
        ItemState::Converting => ("converting", false),
        ItemState::Done => ("done", true),
        ItemState::Exists => ("exists", true),
        ItemState::Mounted => ("mounted", true),
    }
}

fn bar(template: &str, total: u64) -> ProgressBar {
    let style = ProgressStyle::with_template(template).expect("the template is sound");
    ProgressBar::new(total).with_style(style.progress_chars("=> "))
}

impl Screen {
    fn show(&self, name: &str, state: ItemState, offset: u64, total: u64) {
        let (word, is_over) = word(state);
        let mut things = self.things.borrow_mut();
        let thing = things.entry(name.to_owned()).or_default();
        if thing.is_over {
            return;
        }
        thing.total = total;
        if !matches!(state, ItemState::Exists | ItemState::Mounted) {
            thing.moved = offset;
        }
        if is_over {
            thing.is_over = true;
            if let Some(bar) = thing.bar.take() {
                bar.finish_and_clear();
                self.lines.remove(&bar);
            }
            let line = format!("{:24} {word:11} {}", short(name), size(total));
            let _ = self.lines.println(line);
        } else if state != ItemState::Waiting {
            // What waits is only counted, so that many layers fit onto a small terminal.
            let bar = thing.bar.get_or_insert_with(|| {
                let bar = self.lines.insert_from_back(1, bar(BAR, total));
                bar.set_prefix(short(name));
                bar
            });
            bar.set_length(total);
            bar.set_position(offset);
            bar.set_message(word);
        }
    }

    /// The line that adds up.
    fn add_up(&self) {
        let things = self.things.borrow();
        let over = things.values().filter(|thing| thing.is_over).count();
        let done = |thing: &Thing| if thing.is_over { thing.total } else { thing.moved };
        let mut sum = self.sum.borrow_mut();
        let sum = sum.get_or_insert_with(|| {
            let sum = self.lines.add(bar(SUM, 0));
            // The clock goes on while nothing comes, and what was told too quickly to be drawn is drawn.
            if !self.lines.is_hidden() {
                sum.enable_steady_tick(TICK);
            }
            sum
        });
        sum.set_prefix(format!("{over} of {}", things.len()));
        sum.set_message("in all");
        sum.set_length(things.values().map(|thing| thing.total).sum());
        sum.set_position(things.values().map(done).sum());
    }
}

/// `layer-sha256:0123456789ab...` without what nobody reads.
fn short(name: &str) -> String {
    match name.split_once("-sha256:") {
        Some((kind, hex)) => format!("{kind} {}", &hex[..hex.len().min(12)]),
        None => name.chars().take(24).collect(),
    }
}

/// The end that the daemon has.
struct Sink(Rc<Screen>);

impl progress::Server for Sink {
    async fn update(
        self: Rc<Self>,
        params: progress::UpdateParams,
        _results: progress::UpdateResults,
    ) -> capnp::Result<()> {
        let params = params.get()?;
        if self.0.is_json {
            // Whoever reads the stream is gone: the transfer goes on.
            let _ = super::json_line(params);
            return Ok(());
        }
        for item in params.get_items()? {
            let name = item.get_name()?.to_str()?;
            self.0.show(name, item.get_state()?, item.get_offset(), item.get_total());
        }
        self.0.add_up();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_adds_up() {
        assert_eq!(
            summary(Duration::from_millis(2_500), 10 << 20),
            "elapsed: 2.5 s  total: 10.0 MiB  (4.0 MiB/s)"
        );
        assert_eq!(summary(Duration::ZERO, 0), "elapsed: 0.0 s  total: 0 B  (0 B/s)");
    }

    #[test]
    fn names_are_short() {
        assert_eq!(short("layer-sha256:0123456789abcdef"), "layer 0123456789ab");
        assert_eq!(short("layer-sha256:01"), "layer 01");
        assert_eq!(short(&"x".repeat(50)), "x".repeat(24));
    }

    #[test]
    fn what_was_there_was_not_moved() {
        let progress = TransferProgress::new(false);
        let screen = &progress.0;
        screen.show("layer-sha256:aa", ItemState::Waiting, 0, 100);
        screen.show("layer-sha256:bb", ItemState::Exists, 50, 50);
        screen.add_up();
        screen.show("layer-sha256:aa", ItemState::Downloading, 60, 100);
        screen.show("layer-sha256:aa", ItemState::Done, 100, 100);
        // It is over: what is told again changes nothing.
        screen.show("layer-sha256:aa", ItemState::Downloading, 10, 100);
        screen.add_up();
        let things = screen.things.borrow();
        assert_eq!(things["layer-sha256:aa"].moved, 100);
        assert_eq!(things["layer-sha256:bb"].moved, 0);
        assert!(things.values().all(|thing| thing.is_over && thing.bar.is_none()));
        let sum = screen.sum.borrow();
        let sum = sum.as_ref().unwrap();
        assert_eq!((sum.position(), sum.length()), (150, Some(150)));
        assert_eq!(sum.prefix(), "2 of 2");
    }
}
