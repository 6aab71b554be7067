//! `capstan tasks logs`.

use std::io::{IsTerminal as _, Write};

use capstan_client::schema::task_capnp::task;
use clap::Args;

use crate::exit::Outcome;
use crate::session::{Session, call};

/// How long the daemon may wait for something new before it answers.
const WAIT_MILLIS: u32 = 10_000;

#[derive(Debug, Args)]
pub(crate) struct Logs {
    /// Go on as long as the task runs
    #[arg(short, long)]
    follow: bool,
    /// Begin so many lines before the end [default: all]
    #[arg(long, value_name = "N")]
    tail: Option<u32>,
    /// Print the time of each line
    #[arg(short, long)]
    timestamps: bool,
    /// Print control bytes as they are on a terminal too
    #[arg(long)]
    raw: bool,
    pub(crate) id: String,
}

/// A line of the CRI log format.
#[derive(Debug, PartialEq, Eq)]
struct Line<'a> {
    time: &'a str,
    is_error: bool,
    /// The line goes on in the next one.
    is_partial: bool,
    text: &'a [u8],
}

impl<'a> Line<'a> {
    /// `None`: it is none.
    fn parse(line: &'a [u8]) -> Option<Self> {
        let mut words = line.splitn(4, |&byte| byte == b' ');
        let time = std::str::from_utf8(words.next()?).ok()?;
        let is_error = match words.next()? {
            b"stdout" => false,
            b"stderr" => true,
            _ => return None,
        };
        let is_partial = match words.next()? {
            b"F" => false,
            b"P" => true,
            _ => return None,
        };
        Some(Self { time, is_error, is_partial, text: words.next()? })
    }
}

impl Logs {
    pub(crate) async fn run(self, session: &Session, task: &task::Client) -> Outcome {
        let mut printer = Printer {
            is_json: session.is_json(),
            has_time: self.timestamps,
            is_raw: self.raw,
            is_line_open: [false; 2],
        };
        let mut cursor = String::new();
        loop {
            let mut request = task.read_log_request();
            request.get().set_cursor(&cursor);
            request.get().set_tail(self.tail.map_or(0, |lines| lines.saturating_add(1)));
            request.get().set_wait_millis(if self.follow { WAIT_MILLIS } else { 0 });
            let response = call!(session, request);
            let piece = response.get()?;
            if piece.get_missed() {
                eprintln!("capstan: part of the log was rotated away before it was read");
            }
            let data = piece.get_data()?;
            if piece.get_raw() {
                printer.bytes(data, false)?;
            } else {
                printer.lines(data)?;
            }
            std::io::stdout().flush()?;
            cursor = piece.get_next()?.to_string()?;
            if piece.get_is_end() || (data.is_empty() && !self.follow) {
                return Ok(());
            }
        }
    }
}

struct Printer {
    is_json: bool,
    has_time: bool,
    is_raw: bool,
    /// Of stdout and stderr: what comes next is not the beginning of a line.
    is_line_open: [bool; 2],
}

impl Printer {
    fn lines(&mut self, data: &[u8]) -> Outcome {
        for bytes in data.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
            // A cut line of a log that was full comes as it is.
            let torn = Line { time: "", is_error: false, is_partial: false, text: bytes };
            let line = Line::parse(bytes).unwrap_or(torn);
            if self.is_json {
                let object = serde_json::json!({
                    "time": line.time,
                    "stream": if line.is_error { "stderr" } else { "stdout" },
                    "isPartial": line.is_partial,
                    "text": String::from_utf8_lossy(line.text),
                });
                writeln!(std::io::stdout(), "{object}")?;
                continue;
            }
            let is_open = &mut self.is_line_open[usize::from(line.is_error)];
            let is_new = !std::mem::replace(is_open, line.is_partial);
            let mut text = Vec::new();
            if self.has_time && is_new {
                text.extend_from_slice(line.time.as_bytes());
                text.push(b' ');
            }
            text.extend_from_slice(line.text);
            if !line.is_partial {
                text.push(b'\n');
            }
            self.bytes(&text, line.is_error)?;
        }
        Ok(())
    }

    fn bytes(&self, bytes: &[u8], is_error: bool) -> Outcome {
        let (mut stdout, mut stderr) = (std::io::stdout(), std::io::stderr());
        let (out, is_terminal): (&mut dyn Write, bool) = match is_error {
            true => (&mut stderr, std::io::stderr().is_terminal()),
            false => (&mut stdout, std::io::stdout().is_terminal()),
        };
        if is_terminal && !self.is_raw {
            return Ok(out.write_all(&visible(bytes))?);
        }
        Ok(out.write_all(bytes)?)
    }
}

/// Control bytes in caret notation, so that a log cannot play with the terminal of its reader.
fn visible(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes.iter().copied().peekable();
    while let Some(byte) = rest.next() {
        match byte {
            b'\r' if rest.peek() == Some(&b'\n') => {}
            b'\n' | b'\t' | 0x20..=0x7e | 0x80.. => out.push(byte),
            _ => out.extend([b'^', byte ^ 0x40]),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_parsed() {
        let line = Line::parse(b"2026-01-01T00:00:00.000000001Z stderr P a b ").unwrap();
        assert_eq!((line.is_error, line.is_partial, line.text), (true, true, &b"a b "[..]));
        let empty = Line::parse(b"T stdout F ").unwrap();
        assert_eq!((empty.is_error, empty.is_partial, empty.text), (false, false, &b""[..]));
        for bad in ["", "T", "T stdout", "T stdout F", "T elsewhere F x", "T stdout Q x"] {
            assert_eq!(Line::parse(bad.as_bytes()), None, "{bad:?}");
        }
    }

    #[test]
    fn control_bytes_are_shown() {
        assert_eq!(visible(b"a\x1b[31mb\r\nc\rd\x7f\x00\t"), b"a^[[31mb\nc^Md^?^@\t");
        assert_eq!(visible("\u{e9}".as_bytes()), "\u{e9}".as_bytes());
    }
}
