//! Patterns of image names, for rules that are about some images and not about others, and what holds for the others.

use capstan_schema::{Error, Reference, Result};
use serde::{Deserialize, Serialize};

use crate::contract::verifier::Verdict;

/// The most characters of a pattern.
const MAX_CHARS: usize = 512;

/// Which images a rule is about: `registry.example/app`, `registry.example/**`, `*/app:v1.*`.
///
/// It is held against the repository, `host[:port]/path`, so that all tags are meant; one that has a tag or a digest is
/// held against the whole name. `*` stands for any characters but `/`, `**` for any at all; `**` alone means all images.
/// There is no other magic, and letters are as they are written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Pattern(String);

impl TryFrom<String> for Pattern {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        let shown: String = text.chars().take(80).collect();
        let bad = |why: &str| Err(Error::invalid(format!("pattern {shown:?}: {why}")));
        let is_fine = |c: char| c.is_ascii_alphanumeric() || "/.:@_-*[]".contains(c);
        if text.is_empty() {
            return bad("it is empty; ** means all images");
        }
        if text.len() > MAX_CHARS {
            return bad("it has more than 512 characters");
        }
        if let Some(c) = text.chars().find(|&c| !is_fine(c)) {
            return bad(&format!("no name has {c:?} in it; * and ** stand for what may differ"));
        }
        if text != "**" && !text.contains('/') {
            return bad("begin with the registry's host, such as registry.example/app");
        }
        Ok(Self(text))
    }
}

impl From<Pattern> for String {
    fn from(pattern: Pattern) -> Self {
        pattern.0
    }
}

impl Pattern {
    /// All images.
    pub fn all() -> Self {
        Self("**".into())
    }

    /// Whether it means an image of this name.
    pub fn matches(&self, name: &Reference) -> bool {
        let repository = format!("{}/{}", name.host(), name.repository());
        fits(self.0.as_bytes(), repository.as_bytes())
            || (self.has_tag() && fits(self.0.as_bytes(), name.to_string().as_bytes()))
    }

    /// Whether it says something about tags or digests: `:` also stands before a port.
    fn has_tag(&self) -> bool {
        let last = self.0.rsplit('/').next().unwrap_or_default();
        last.contains([':', '@'])
    }
}

/// What becomes of an image that no rule is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Otherwise {
    /// It gets its name.
    #[default]
    Accept,
    /// It does not.
    Refuse,
}

impl Otherwise {
    /// What a verifier says of an image that no rule is about.
    pub fn verdict(self, name: &Reference) -> Verdict {
        match self {
            Self::Accept => Verdict::Accepted,
            Self::Refuse => {
                Verdict::Refused(format!("no rule is about {name}, and the default is to refuse"))
            }
        }
    }
}

/// A star that was passed: what is behind it in the pattern, and from where on in the text that is looked for.
type Star = Option<(usize, usize)>;

/// Whether a text is as a pattern says. A star that was passed last is the only one to go back to: what the ones before it
/// took may stay as it is. That does not hold for `*` behind `**`, so both are kept.
fn fits(pattern: &[u8], text: &[u8]) -> bool {
    let (mut at, mut done) = (0, 0);
    let (mut one, mut any): (Star, Star) = (None, None);
    loop {
        if pattern[at..].starts_with(b"**") {
            at += 2;
            (one, any) = (None, Some((at, done)));
            continue;
        }
        if pattern.get(at) == Some(&b'*') {
            at += 1;
            one = Some((at, done));
            continue;
        }
        match (pattern.get(at), text.get(done)) {
            (None, None) => return true,
            (Some(want), Some(have)) if want == have => {
                at += 1;
                done += 1;
                continue;
            }
            _ => {}
        }
        // The star takes one more; if it may not, the one that may take anything does.
        if let Some((behind, from)) = one
            && text.get(from).is_some_and(|&c| c != b'/')
        {
            one = Some((behind, from + 1));
            (at, done) = (behind, from + 1);
        } else if let Some((behind, from)) = any
            && from < text.len()
        {
            any = Some((behind, from + 1));
            one = None;
            (at, done) = (behind, from + 1);
        } else {
            return false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_means_what_it_looks_like() {
        let check = |pattern: &str, name: &str, want: bool| {
            let pattern = Pattern::try_from(pattern.to_owned()).unwrap();
            let name = Reference::parse(name).unwrap();
            assert_eq!(pattern.matches(&name), want, "{pattern:?} of {name}");
        };
        let digest = format!("sha256:{}", "0".repeat(64));
        check("**", "registry.example/app", true);
        check("registry.example/app", "registry.example/app", true);
        check("registry.example/app", "registry.example/app:1", true);
        check("registry.example/app", &format!("registry.example/app@{digest}"), true);
        check("registry.example/app", "registry.example/app2", false);
        check("registry.example/app", "registry.example/app/x", false);
        check("registry.example/app", "registry.example:5000/app", false);
        check("registry.example:5000/app", "registry.example:5000/app:2", true);
        check("registry.example/*", "registry.example/app:1", true);
        check("registry.example/*", "registry.example/a/b", false);
        check("registry.example/**", "registry.example/a/b:1", true);
        check("registry.example/**", "registry.example.evil.example/a", false);
        check("registry.example/**/b", "registry.example/a/x/b", true);
        check("registry.example/**/b", "registry.example/a/x/b/c", false);
        check("*/app", "localhost/app", true);
        check("*/app", "localhost/x/app", false);
        check("**/app", "localhost/x/app", true);
        check("registry.example/app:v1.*", "registry.example/app:v1.2", true);
        check("registry.example/app:v1.*", "registry.example/app:v2", false);
        check("registry.example/app:*", "registry.example/app", true);
        check("registry.example/app@sha256:*", "registry.example/app:1", false);
        check("registry.example/app@sha256:*", &format!("registry.example/app@{digest}"), true);
        check("registry.example/a*c*e", "registry.example/abcde", true);
        check("registry.example/a*c*e", "registry.example/abcd", false);
        check("**/a*b/c", "h.example/a/x/ab/c", true);
        check("**/a*b**c", "h.example/a1b/2/c", true);
        check("**/x*/y", "h.example/x1/z/x2/y", true);
        check("[::1]:5000/app", "[::1]:5000/app", true);
        // Many stars cost no more than the two lengths multiplied.
        check(
            &format!("h.example/{}b", "*a".repeat(200)),
            &format!("h.example/{}", "a".repeat(240)),
            false,
        );
    }

    #[test]
    fn what_no_rule_is_about_is_accepted_or_refused() {
        let name = Reference::parse("registry.example/app:1").unwrap();
        assert_eq!(Otherwise::default().verdict(&name), Verdict::Accepted);
        let Verdict::Refused(reason) = Otherwise::Refuse.verdict(&name) else {
            panic!("it is accepted");
        };
        assert!(reason.contains("registry.example/app:1"), "{reason}");
        for (word, want) in [("accept", Otherwise::Accept), ("refuse", Otherwise::Refuse)] {
            assert_eq!(serde_json::from_value::<Otherwise>(word.into()).unwrap(), want);
        }
        assert!(serde_json::from_value::<Otherwise>("Accept".into()).is_err());
    }

    #[test]
    fn nonsense_is_refused() {
        for bad in
            ["", "app", "*", "registry.example/a b", "registry.example/a?", "https://\u{e9}/a"]
        {
            assert!(Pattern::try_from(bad.to_owned()).is_err(), "{bad}");
        }
    }
}
