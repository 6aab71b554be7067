//! Errors, where the shim looks for them: one JSON object a line, as runc writes them.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;

/// Writes an error with all its causes to the log, or to stderr where there is none.
pub(crate) fn report(log: Option<&Path>, error: &anyhow::Error) {
    let text = text(error);
    let line = serde_json::json!({ "level": "error", "msg": text }).to_string();
    let written = log.map(|path| {
        let mut file = OpenOptions::new().create(true).append(true).open(path)?;
        writeln!(file, "{line}")
    });
    if !matches!(written, Some(Ok(()))) {
        eprintln!("capstan-runtime: {text}");
    }
}

/// The causes, from the outside in, without those that say what was said already.
fn text(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        if text.contains(&cause) {
            continue;
        }
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(&cause);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_told_once() {
        let error =
            anyhow::anyhow!("no such thing").context("open: no such thing").context("create");
        assert_eq!(text(&error), "create: open: no such thing");
    }
}
