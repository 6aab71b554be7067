//! The progress of a pull: a bar per layer on a terminal, nothing otherwise.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::rc::Rc;

use capstan_client::schema::transfer_capnp::{ItemState, progress};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Shows what the daemon tells.
pub(crate) struct PullProgress {
    screen: MultiProgress,
    bars: RefCell<BTreeMap<String, ProgressBar>>,
    is_json: bool,
}

impl PullProgress {
    /// Bars on a terminal; with JSON one object a line; else silent.
    pub(crate) fn new(is_json: bool) -> Self {
        let is_shown = !is_json && std::io::stderr().is_terminal();
        let target =
            if is_shown { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        Self { screen: MultiProgress::with_draw_target(target), bars: RefCell::default(), is_json }
    }

    fn show(&self, name: &str, state: ItemState, offset: u64, total: u64) {
        let mut bars = self.bars.borrow_mut();
        let bar = bars.entry(name.to_owned()).or_insert_with(|| {
            let bar = self.screen.add(ProgressBar::new(total));
            let style = ProgressStyle::with_template(
                "{prefix:24} {msg:12} [{bar:30}] {bytes:>10}/{total_bytes:<10} {bytes_per_sec}",
            );
            bar.set_style(style.expect("the template is sound").progress_chars("=> "));
            bar.set_prefix(short(name));
            bar
        });
        bar.set_length(total);
        bar.set_position(offset);
        let word = match state {
            ItemState::Waiting => "waiting",
            ItemState::Downloading => "downloading",
            ItemState::Extracting => "extracting",
            ItemState::Done => "done",
            ItemState::Exists => "exists",
            ItemState::Uploading => "uploading",
            ItemState::Mounted => "mounted",
            ItemState::Resolving => "resolving",
            ItemState::Converting => "converting",
        };
        bar.set_message(word);
        if matches!(state, ItemState::Done | ItemState::Exists | ItemState::Mounted) {
            bar.abandon();
        }
    }
}

/// `layer-sha256:0123456789ab...` without what nobody reads.
fn short(name: &str) -> String {
    match name.split_once("-sha256:") {
        Some((kind, hex)) => format!("{kind} {}", &hex[..hex.len().min(12)]),
        None => name.chars().take(24).collect(),
    }
}

impl progress::Server for PullProgress {
    async fn update(
        self: Rc<Self>,
        params: progress::UpdateParams,
        _results: progress::UpdateResults,
    ) -> capnp::Result<()> {
        let params = params.get()?;
        if self.is_json {
            // Whoever reads the stream is gone: the pull goes on.
            let _ = super::json_line(params);
            return Ok(());
        }
        for item in params.get_items()? {
            let name = item.get_name()?.to_str()?;
            self.show(name, item.get_state()?, item.get_offset(), item.get_total());
        }
        Ok(())
    }
}
