//! Signals by number, real-time ones too.

use rustix::process::Signal;

/// The signal of a number from 1 to 64; `None` for anything else, and for 32 and 33, which C
/// libraries keep for themselves.
#[expect(unsafe_code, reason = "real-time signals have no names")]
pub(crate) fn from_number(number: u32) -> Option<Signal> {
    let number = i32::try_from(number).ok()?;
    if (34..=64).contains(&number) {
        // SAFETY: the kernel has signals up to 64 (`_NSIG`), and no C library reserves those from 34
        // on (signal(7), "Real-time signals").
        return Some(unsafe { Signal::from_raw_unchecked(number) });
    }
    Signal::from_named_raw(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_signals() {
        for number in (1..=31).chain(34..=64) {
            assert_eq!(from_number(number).map(|s| s.as_raw()), i32::try_from(number).ok());
        }
        for number in [0, 32, 33, 65, u32::MAX] {
            assert!(from_number(number).is_none());
        }
    }
}
