//! Telling how far something is.

use std::time::Duration;

use capstan_sdk::contract::transfer::{Item, ProgressSender};

/// How often it is told: as often as a person sees.
const INTERVAL: Duration = Duration::from_millis(100);

/// Tells it for ever, where it has changed.
pub(crate) async fn tell<T>(progress: &ProgressSender, items: impl Fn() -> Vec<Item>) -> T {
    loop {
        let items = items();
        progress.send_if_modified(|shown| {
            let has_changed = *shown != items;
            *shown = items;
            has_changed
        });
        tokio::time::sleep(INTERVAL).await;
    }
}
