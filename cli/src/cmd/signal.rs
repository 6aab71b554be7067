//! Signal names, as people type them.

use capstan_client::{Error, Result};
use nix::sys::signal::Signal;

/// `SIGKILL`, `kill`, `9`.
pub(crate) fn parse(text: &str) -> Result<u32> {
    let unknown = || {
        Error::invalid(format!(
            "signal {text:?}: write a name such as TERM, or a number from 1 to 64"
        ))
    };
    if let Ok(number) = text.parse::<u32>() {
        return if (1..=64).contains(&number) { Ok(number) } else { Err(unknown()) };
    }
    let name = text.to_uppercase();
    let name = if name.starts_with("SIG") { name } else { format!("SIG{name}") };
    let name = match name.as_str() {
        "SIGCLD" => "SIGCHLD",
        "SIGIOT" => "SIGABRT",
        "SIGPOLL" => "SIGIO",
        "SIGUNUSED" => "SIGSYS",
        name => name,
    };
    let signal: Signal = name.parse().map_err(|_| unknown())?;
    Ok(u32::try_from(signal as i32).expect("signals are positive"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        let check = |text: &str, want: Option<u32>| assert_eq!(parse(text).ok(), want, "{text:?}");
        check("TERM", Some(15));
        check("sigterm", Some(15));
        check("SIGKILL", Some(9));
        check("9", Some(9));
        check("34", Some(34));
        check("CLD", Some(17));
        check("poll", Some(29));
        check("0", None);
        check("65", None);
        check("", None);
        check("FOO", None);
    }
}
