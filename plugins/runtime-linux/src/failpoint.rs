//! Places where a test can hold the daemon, to kill it or a shim there. They exist only in a daemon that was
//! built with the feature `probe`; in any other [`at`] does nothing.
//!
//! It works as the shim's does: a file `failpoint` in the plugin's state directory says `ID STEP`; whoever
//! comes to that step of that task renames it to `failpoint.hit` and goes no further until that is removed.

use std::path::Path;

use capstan_sdk::contract::runtime::TaskKey;

/// Holds if this is where the test wants it. `tasks` is the directory of all tasks.
#[cfg(feature = "probe")]
pub(crate) fn at(tasks: &Path, key: &TaskKey, step: &str) {
    let (wish, hit) = (tasks.with_file_name("failpoint"), tasks.with_file_name("failpoint.hit"));
    let is_here = |text: String| text == format!("{} {step}", key.id);
    if !std::fs::read_to_string(&wish).is_ok_and(is_here) || std::fs::rename(wish, &hit).is_err() {
        return;
    }
    while hit.exists() {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}

/// Nothing.
#[cfg(not(feature = "probe"))]
pub(crate) const fn at(_tasks: &Path, _key: &TaskKey, _step: &str) {}
