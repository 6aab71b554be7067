//! `[plugins."gc.local"]`.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

/// The section.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// A collection follows so many seconds after the start, and after the last one of these; 0 = none by the clock. Default:
    /// 0, so that nothing goes that nobody asked for: `capstan gc` collects.
    pub interval_seconds: u64,
    /// A collection follows after so many images, containers and leases were removed, in all namespaces, as the event
    /// log tells; 0 = none. Default: 0.
    pub after_removals: u64,
    /// A collection follows when the file system of the root directory has less free space than so many percent; 0 =
    /// none, at most 100. It is looked at every ten seconds; less often, up to every ten minutes, while collections give
    /// nothing back. Default: 0.
    #[serde(deserialize_with = "percent")]
    pub below_free_percent: u64,
    /// Whether a fast audit runs in the background after each start, and logs what it finds. Default: true.
    pub audit_at_start: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self { interval_seconds: 0, after_removals: 0, below_free_percent: 0, audit_at_start: true }
    }
}

fn percent<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let percent = u64::deserialize(deserializer)?;
    match percent {
        0..=100 => Ok(percent),
        _ => Err(D::Error::custom(format!("below_free_percent is {percent}; write 0 to 100"))),
    }
}
