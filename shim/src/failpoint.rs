//! Places where a test can hold the shim, to kill it or the daemon there. They exist only in a shim that was
//! built with the feature `probe`; in any other [`at`] does nothing.
//!
//! A file `failpoint` beside the directory of all tasks says `ID STEP`. Whoever comes to that step of that
//! task renames it to `failpoint.hit` and goes no further until that is removed.

/// Holds if this is where the test wants it.
#[cfg(feature = "probe")]
pub(crate) fn at(step: &str) {
    const WISH: &str = "../../../failpoint";
    const HIT: &str = "../../../failpoint.hit";
    let Ok(wish) = std::fs::read_to_string(WISH) else { return };
    let dir = std::env::current_dir().unwrap_or_default();
    let id = dir.file_name().unwrap_or_default().to_string_lossy();
    if wish != format!("{id} {step}") || std::fs::rename(WISH, HIT).is_err() {
        return;
    }
    while std::path::Path::new(HIT).exists() {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}

/// Nothing.
#[cfg(not(feature = "probe"))]
pub(crate) const fn at(_step: &str) {}
