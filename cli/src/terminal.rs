//! The user's own terminal: raw mode while a container has it, its size, and questions to the user.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read, Write as _};

use capstan_client::{Error, Result};
use rustix::termios::{
    LocalModes, OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr,
};
use tokio::task::spawn_blocking;

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

/// The terminal of the session, whatever stdin is. `flags`: how to do without.
fn open(flags: &str) -> Result<File> {
    File::options().read(true).write(true).open("/dev/tty").map_err(|error| {
        Error::precondition(format!("there is no terminal to ask on ({error}); give {flags}"))
    })
}

/// Asks the user for a line. `flags` are those that give it without asking.
///
/// # Errors
/// `FailedPrecondition`: there is no terminal. `Aborted`: there is no line.
pub(crate) async fn ask(question: String, flags: &str) -> Result<String> {
    let mut tty = open(flags)?;
    let fail = |error| Error::io("ask on the terminal", error);
    tty.write_all(question.as_bytes()).map_err(fail)?;
    let read = move || {
        let mut line = String::new();
        BufReader::new(tty).read_line(&mut line).map(|_| line)
    };
    let line =
        spawn_blocking(read).await.map_err(|_| Error::internal("no reader"))?.map_err(fail)?;
    match line.strip_suffix('\n') {
        Some(line) => Ok(line.to_owned()),
        None => Err(Error::aborted("no answer")),
    }
}

/// Asks the user for a line that nobody is to see.
///
/// # Errors
/// As [`ask`]; `Aborted` also: the user interrupts.
///
/// Cancel safety: the terminal is as it was, and what is typed next is lost.
pub(crate) async fn ask_hidden(question: String, flags: &str) -> Result<String> {
    let mut tty = open(flags)?;
    let fail = |error: std::io::Error| Error::io("ask on the terminal", error);
    tty.write_all(question.as_bytes()).map_err(fail)?;
    let reader = tty.try_clone().map_err(fail)?;
    let _quiet = Quiet::begin(tty)?;
    let line = spawn_blocking(move || hidden_line(reader)).await;
    line.map_err(|_| Error::internal("no reader"))?
}

/// No echo, and no signals either, which would end us without the echo back; ends when this is dropped.
struct Quiet(File, Termios);

impl Quiet {
    fn begin(tty: File) -> Result<Self> {
        let fail = |error| Error::io("switch off the terminal's echo", error);
        let before = tcgetattr(&tty).map_err(fail)?;
        let mut quiet = before.clone();
        quiet.local_modes.remove(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG);
        tcsetattr(&tty, OptionalActions::Flush, &quiet).map_err(fail)?;
        Ok(Self(tty, before))
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        let _ = tcsetattr(&self.0, OptionalActions::Flush, &self.1);
        let _ = self.0.write_all(b"\n");
    }
}

/// A line from a terminal that edits none itself.
fn hidden_line(reader: impl Read) -> Result<String> {
    let mut line = Vec::new();
    // Not ahead of the line: what is behind it is for whoever reads next.
    for byte in BufReader::with_capacity(1, reader).bytes() {
        match byte.map_err(|error| Error::io("read from the terminal", error))? {
            b'\r' | b'\n' => {
                return String::from_utf8(line)
                    .map_err(|_| Error::invalid("the answer is no text"));
            }
            // Control C, D and \: it ends.
            0x03 | 0x04 | 0x1c => break,
            // Backspace: the last character, in all its bytes.
            0x08 | 0x7f => while line.pop().is_some_and(|byte| byte & 0xc0 == 0x80) {},
            // Control U: all of it.
            0x15 => line.clear(),
            byte => line.push(byte),
        }
    }
    Err(Error::aborted("no answer"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hidden_lines_are_edited() {
        let check = |typed: &str, want: Option<&str>| {
            assert_eq!(hidden_line(typed.as_bytes()).as_deref().ok(), want, "{typed:?}");
        };
        check("secret\r", Some("secret"));
        check("secret\nmore", Some("secret"));
        check("se\u{e9}\x7fx\x08cret\r", Some("secret"));
        check("\x7fx\r", Some("x"));
        check("wrong\x15right\r", Some("right"));
        check("\r", Some(""));
        check("sec\x03", None);
        check("sec\x04", None);
        check("sec", None);
    }
}
