//! Names that an archive gives: relative to the root, cleaned, and told apart from whiteouts.

use std::fmt;

use capstan_sdk::{Error, Result};

use crate::Config;
use crate::config::exceeded;
use crate::error::Shown;

/// What whiteouts start with (OCI image-spec, layer.md, "Whiteouts").
pub(crate) const WHITEOUT: &[u8] = b".wh.";
/// The marker of a directory whose lower content is gone.
const OPAQUE: &[u8] = b".wh..wh..opq";
/// What names of aufs's own files start with; they stand at the root and mean nothing elsewhere.
const AUFS: &[u8] = b".wh..wh.";
/// The directory where aufs has the files that have several names.
const PLINKS: &[u8] = b".wh..wh.plnk/";

/// A clean name: components between single slashes, none of them empty, `.` or `..`. The root is
/// the empty name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Name(Vec<u8>);

/// What an entry of some name is about.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// The thing itself.
    Thing(Name),
    /// All that the parents have in this directory goes.
    Opaque(Name),
    /// What the parents have by this name goes.
    Whiteout(Name),
    /// What names of this layer link to: by its name in aufs's directory of such files.
    Plink(Vec<u8>),
    /// A file of aufs's own: to be skipped.
    Aufs,
}

impl Name {
    /// Cleans a name as an archive has it. An absolute name is taken beneath the root.
    ///
    /// # Errors
    /// `Corrupt`: it has a NUL, or leaves the root. `ResourceExhausted`: too long or too deep.
    pub(crate) fn clean(raw: &[u8], config: &Config) -> Result<Self> {
        if raw.contains(&0) {
            return Err(Error::corrupt(format!("the name {} has a NUL in it", Shown(raw))));
        }
        let mut name = Self(Vec::with_capacity(raw.len()));
        let mut depth = 0;
        for component in raw.split(|&byte| byte == b'/') {
            match component {
                b"" | b"." => {}
                b".." if name.is_root() => {
                    let why = "leads out of the root of the layer";
                    return Err(Error::corrupt(format!("the name {} {why}", Shown(raw))));
                }
                b".." => {
                    name.0.truncate(name.parent().len());
                    depth -= 1;
                }
                component => {
                    name.push(component);
                    depth += 1;
                }
            }
        }
        name.check(depth, config)?;
        Ok(name)
    }

    fn check(&self, depth: usize, config: &Config) -> Result<()> {
        let what = || format!("the path {self}");
        if self.0.len() > config.max_path_bytes {
            return Err(exceeded(&what(), "max_path_bytes", config.max_path_bytes));
        }
        if depth > config.max_depth {
            return Err(exceeded(&what(), "max_depth", config.max_depth));
        }
        Ok(())
    }

    /// The entry `base` of a directory. Both are clean; links may have made the path longer.
    ///
    /// # Errors
    /// `ResourceExhausted`: too long or too deep.
    pub(crate) fn within(dir: &[u8], base: &[u8], config: &Config) -> Result<Self> {
        let mut name = Self(dir.to_vec());
        name.push(base);
        name.check(name.0.split(|&byte| byte == b'/').count(), config)?;
        Ok(name)
    }

    fn push(&mut self, component: &[u8]) {
        if !self.is_root() {
            self.0.push(b'/');
        }
        self.0.extend_from_slice(component);
    }

    pub(crate) fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The directory that it is in; of the root, the root.
    pub(crate) fn parent(&self) -> &[u8] {
        parent(&self.0)
    }

    /// The last component; of the root, nothing.
    pub(crate) fn base(&self) -> &[u8] {
        base(&self.0)
    }

    /// Whether it is below `other`.
    pub(crate) fn is_beneath(&self, other: &Self) -> bool {
        ancestors(&self.0).any(|ancestor| ancestor == other.0)
    }

    /// Whether a component has the prefix of whiteouts, which no name of a real file has.
    pub(crate) fn is_reserved(&self) -> bool {
        self.0.split(|&byte| byte == b'/').any(|component| component.starts_with(WHITEOUT))
    }

    /// The rest of the name of a file in aufs's directory of files with several names.
    pub(crate) fn plink(&self) -> Option<&[u8]> {
        self.0.strip_prefix(PLINKS)
    }

    /// Tells whiteouts from things.
    ///
    /// # Errors
    /// `Corrupt`: a whiteout of nothing, or a name below a whiteout.
    pub(crate) fn role(self) -> Result<Role> {
        if !self.is_reserved() {
            return Ok(Role::Thing(self));
        }
        if let Some(base) = self.plink() {
            return Ok(Role::Plink(base.to_vec()));
        }
        if self.0.starts_with(AUFS) && self.0 != OPAQUE {
            return Ok(Role::Aufs);
        }
        let directory = Self(self.parent().to_vec());
        let Some(target) = self.base().strip_prefix(WHITEOUT) else {
            return Err(Error::corrupt(format!("{self} is below the name of a whiteout")));
        };
        if directory.is_reserved() {
            return Err(Error::corrupt(format!("{self} is below the name of a whiteout")));
        }
        if self.base() == OPAQUE {
            return Ok(Role::Opaque(directory));
        }
        if matches!(target, b"" | b"." | b"..") {
            return Err(Error::corrupt(format!("the whiteout {self} names no file")));
        }
        let mut whiteout = directory;
        whiteout.push(target);
        Ok(Role::Whiteout(whiteout))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Shown(if self.is_root() { b"." } else { &self.0 }).fmt(f)
    }
}

impl AsRef<[u8]> for Name {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// The directory that a clean path is in; of the root, the root.
pub(crate) fn parent(path: &[u8]) -> &[u8] {
    &path[..path.iter().rposition(|&byte| byte == b'/').unwrap_or(0)]
}

/// The last component of a clean path; of the root, nothing.
pub(crate) fn base(path: &[u8]) -> &[u8] {
    &path[path.iter().rposition(|&byte| byte == b'/').map_or(0, |at| at + 1)..]
}

/// The directories that a clean path is below, from the nearest to the root.
pub(crate) fn ancestors(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    let nearest = (!path.is_empty()).then(|| parent(path));
    std::iter::successors(nearest, |path| (!path.is_empty()).then(|| parent(path)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use capstan_sdk::Class;

    fn clean(raw: &[u8]) -> Result<Name> {
        Name::clean(raw, &Config::default())
    }

    #[test]
    fn names_are_cleaned() {
        let check = |raw: &str, want: &str| {
            assert_eq!(clean(raw.as_bytes()).unwrap().as_bytes(), want.as_bytes(), "{raw:?}");
        };
        check("a/b", "a/b");
        check("./a//b/./", "a/b");
        check("/a", "a");
        check("///a", "a");
        check("a/../b", "b");
        check("a/b/../../c", "c");
        check("a/..", "");
        check("./", "");
        check("/", "");
        check("", "");
        check("...", "...");
        check("..a/b..", "..a/b..");
    }

    #[test]
    fn names_that_leave_the_root_are_refused() {
        for raw in ["..", "../a", "/..", "a/../..", "a/../../b", "./../etc/x", "/../../etc/x"] {
            let error = clean(raw.as_bytes()).unwrap_err();
            assert_eq!(error.class(), Class::Corrupt, "{raw}");
            assert!(error.message().contains(&format!("{raw:?}")), "{error}");
        }
        assert_eq!(clean(b"a\0b").unwrap_err().class(), Class::Corrupt);
    }

    #[test]
    fn long_and_deep_names_trip_their_limit() {
        let check = |raw: String, key: &str| match clean(raw.as_bytes()) {
            Ok(_) => assert_eq!(key, ""),
            Err(error) => {
                assert_eq!(error.class(), Class::ResourceExhausted);
                assert!(error.message().ends_with(&format!("[plugins.\"differ.tar\"] {key}")));
            }
        };
        check("a/".repeat(256), "");
        check("a/".repeat(257), "max_depth");
        check("a".repeat(4095), "");
        check("a".repeat(4096), "max_path_bytes");
        check(format!("{}a", "b/../".repeat(1000)), "");
    }

    #[test]
    fn roles() {
        let name = |text: &str| clean(text.as_bytes()).unwrap();
        let check = |raw: &str, want: Role| assert_eq!(name(raw).role().unwrap(), want, "{raw}");
        check("a/b", Role::Thing(name("a/b")));
        check("a/.wh.b", Role::Whiteout(name("a/b")));
        check(".wh.b", Role::Whiteout(name("b")));
        check("a/.wh..b", Role::Whiteout(name("a/.b")));
        check("a/.wh..wh.b", Role::Whiteout(name("a/.wh.b")));
        check("a/.wh..wh..opq", Role::Opaque(name("a")));
        check(".wh..wh..opq", Role::Opaque(name("")));
        check(".wh..wh.plnk", Role::Aufs);
        check(".wh..wh.plnk/1.2", Role::Plink(b"1.2".to_vec()));
        check(".wh..wh.aufs", Role::Aufs);
        check(".whale", Role::Thing(name(".whale")));
        check("", Role::Thing(name("")));
        let bad = [
            ".wh.",
            ".wh..",
            ".wh...",
            "a/.wh.",
            "a/.wh..",
            "a/.wh...",
            ".wh.a/b",
            "a/.wh.b/.wh.c",
        ];
        for raw in bad {
            assert_eq!(name(raw).role().unwrap_err().class(), Class::Corrupt, "{raw}");
        }
    }

    #[test]
    fn ancestors_go_up_to_the_root() {
        let check = |path: &str, want: &[&str]| {
            let got: Vec<&[u8]> = ancestors(path.as_bytes()).collect();
            assert_eq!(got, want.iter().map(|a| a.as_bytes()).collect::<Vec<_>>(), "{path:?}");
        };
        check("", &[]);
        check("a", &[""]);
        check("a/b/c", &["a/b", "a", ""]);
    }
}
