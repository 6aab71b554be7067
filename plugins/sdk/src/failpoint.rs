//! Places where a test can hold the daemon, to cut its power there. They exist only in a daemon that was built
//! with the feature `probe`; in any other [`at`] does nothing.
//!
//! `CAPSTAN_FAILPOINTS` names a directory outside of all that the test destroys. A file `wish` in it says a
//! step; whoever comes to that step first renames it to `hit`, and goes no further until that is removed.

/// Holds the thread if this is where the test wants it.
#[cfg(feature = "probe")]
pub fn at(step: &str) {
    let Some(dir) = std::env::var_os("CAPSTAN_FAILPOINTS").map(std::path::PathBuf::from) else {
        return;
    };
    let (wish, hit) = (dir.join("wish"), dir.join("hit"));
    let is_here = |text: String| text == step;
    if !std::fs::read_to_string(&wish).is_ok_and(is_here) || std::fs::rename(wish, &hit).is_err() {
        return;
    }
    while hit.exists() {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}

/// Nothing.
#[cfg(not(feature = "probe"))]
pub const fn at(_step: &str) {}
