//! The user's own terminal: raw mode while a container has it, and its size.

use capstan_client::{Error, Result};
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr};

/// Raw mode; ends when this is dropped.
pub(crate) struct RawMode(Termios);

impl RawMode {
    /// Switches stdin to raw mode.
    ///
    /// # Errors
    /// `FailedPrecondition`: stdin is no terminal.
    pub(crate) fn enter() -> Result<Self> {
        let stdin = std::io::stdin();
        if !isatty(&stdin) {
            return Err(Error::precondition(
                "stdin is no terminal: leave out -t, or run it in one",
            ));
        }
        let fail = |error| Error::io("set the terminal to raw mode", error);
        let before = tcgetattr(&stdin).map_err(fail)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(&stdin, OptionalActions::Now, &raw).map_err(fail)?;
        Ok(Self(before))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &self.0);
    }
}

/// Columns and rows of the terminal that stdout or stdin is.
pub(crate) fn size() -> Option<(u16, u16)> {
    let size = tcgetwinsize(std::io::stdout()).or_else(|_| tcgetwinsize(std::io::stdin())).ok()?;
    (size.ws_col > 0).then_some((size.ws_col, size.ws_row))
}
