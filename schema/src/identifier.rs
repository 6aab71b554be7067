//! Identifiers: the names of namespaces and containers.
//!
//! They become parts of paths, cgroups and host names, so their rule is narrow: letters and
//! digits, with dots and runs of dashes between them, at most 76 bytes (INVENTORY 4.11).

use std::fmt;

use crate::{Error, Result};

/// Long enough for `<32 hex>-<32 hex>` with a prefix, short enough for a host name in two labels.
const MAX_BYTES: usize = 76;

fn check(what: &str, text: &str) -> Result<()> {
    let label = |label: &str| {
        let ends = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_alphanumeric());
        ends(label.bytes().next())
            && ends(label.bytes().next_back())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    if text.len() > MAX_BYTES {
        let shown: String = text.chars().take(20).collect();
        return Err(Error::invalid(format!(
            "{what} {shown:?}...: {} bytes are too long, at most {MAX_BYTES}",
            text.len()
        )));
    }
    if !text.split('.').all(label) {
        return Err(Error::invalid(format!(
            "{what} {text:?}: use letters and digits, with single dots or dashes between them"
        )));
    }
    Ok(())
}

macro_rules! identifier {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(std::sync::Arc<str>);

        impl $name {
            /// The only way in.
            ///
            /// # Errors
            /// `InvalidArgument`.
            pub fn parse(text: &str) -> Result<Self> {
                check($what, text)?;
                Ok(Self(text.into()))
            }

            /// The text; safe as one component of a path.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

identifier!(
    /// A tenant: names in one are not visible in another.
    Namespace,
    "namespace"
);
identifier!(
    /// The id of a container, and of its task.
    ContainerId,
    "container id"
);

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, is_good: bool) {
        assert_eq!(Namespace::parse(text).is_ok(), is_good, "{text:?}");
        assert_eq!(ContainerId::parse(text).is_ok(), is_good, "{text:?}");
    }

    #[test]
    fn the_rule_of_the_seed_holds() {
        for good in [
            "default",
            "Default",
            "default-default",
            "default--default",
            "containerd.io",
            "foo.boo",
            "swarmkit.example.io",
            "zn--e9.org",
            "0912341234",
            "task.0.0123456789",
            "a",
        ] {
            check(good, true);
        }
        check(&"a".repeat(76), true);
        check(&"a".repeat(77), false);
        for bad in [
            "",
            ".",
            "..",
            ".foo..foo",
            "foo/foo",
            "foo/..",
            "foo..foo",
            "foo.-boo",
            "-foo.boo",
            "foo.boo-",
            "foo_foo.boo_underscores",
            "a:-b",
            "a b",
            "a\0",
            "\u{430}",
            "a\n",
        ] {
            check(bad, false);
        }
    }
}
