//! Restart policies: what becomes of a container whose task ended by itself.

use capstan_schema::{Error, Result};

/// When a container is started again. Default: never.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RestartPolicy {
    /// Never.
    #[default]
    No,
    /// When it ended with another status than 0, at most so often; `None` = without end.
    OnFailure(Option<u32>),
    /// However it ended.
    Always,
}

impl RestartPolicy {
    /// Reads `no`, `on-failure[:N]` or `always`; empty text is `no`.
    ///
    /// # Errors
    /// `InvalidArgument`.
    pub fn parse(text: &str) -> Result<Self> {
        let bad = || {
            Error::invalid(format!("restart policy {text:?}: write no, on-failure[:N] or always"))
        };
        match text.split_once(':') {
            None => match text {
                "" | "no" => Ok(Self::No),
                "on-failure" => Ok(Self::OnFailure(None)),
                "always" => Ok(Self::Always),
                _ => Err(bad()),
            },
            Some(("on-failure", count)) if count.bytes().all(|b| b.is_ascii_digit()) => {
                match count.parse().map_err(|_| bad())? {
                    0 => Err(bad()),
                    count => Ok(Self::OnFailure(Some(count))),
                }
            }
            Some(_) => Err(bad()),
        }
    }

    /// Whether a task that ended with `status`, and was started anew `restarts` times, is to be again.
    pub fn wants(self, status: u32, restarts: u32) -> bool {
        match self {
            Self::No => false,
            Self::OnFailure(limit) => status != 0 && limit.is_none_or(|limit| restarts < limit),
            Self::Always => true,
        }
    }
}

/// As users write it.
impl std::fmt::Display for RestartPolicy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::No => f.write_str("no"),
            Self::OnFailure(None) => f.write_str("on-failure"),
            Self::OnFailure(Some(limit)) => write!(f, "on-failure:{limit}"),
            Self::Always => f.write_str("always"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_are_read_as_they_are_written() {
        for text in ["no", "on-failure", "on-failure:3", "always"] {
            assert_eq!(RestartPolicy::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(RestartPolicy::parse("").unwrap(), RestartPolicy::No);
        for bad in ["never", "always:1", "on-failure:", "on-failure:0", "on-failure:-1", "no:1"] {
            assert!(RestartPolicy::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_policy_looks_at_status_and_count() {
        let check = |text: &str, status: u32, restarts: u32, want: bool| {
            let policy = RestartPolicy::parse(text).unwrap();
            assert_eq!(policy.wants(status, restarts), want, "{text} {status} {restarts}");
        };
        check("no", 1, 0, false);
        check("always", 0, 1000, true);
        check("on-failure", 0, 0, false);
        check("on-failure", 1, 1000, true);
        check("on-failure:2", 137, 1, true);
        check("on-failure:2", 137, 2, false);
    }
}
