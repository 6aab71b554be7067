//! What a registry wants to know before it answers: the header `WWW-Authenticate` (RFC 7235).

use std::collections::BTreeMap;

use hyper::header::{HeaderMap, WWW_AUTHENTICATE};

/// One way to say who asks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Challenge {
    /// In lower case: `bearer`, `basic`.
    pub(super) scheme: String,
    /// By names in lower case.
    parameters: BTreeMap<String, String>,
}

impl Challenge {
    /// A parameter; empty if it is not there.
    pub(super) fn parameter(&self, name: &str) -> &str {
        self.parameters.get(name).map_or("", String::as_str)
    }
}

/// All challenges of an answer, as far as they can be read.
pub(super) fn challenges(headers: &HeaderMap) -> Vec<Challenge> {
    let mut found = Vec::new();
    for value in headers.get_all(WWW_AUTHENTICATE) {
        let text = String::from_utf8_lossy(value.as_bytes());
        // What cannot be read ends its header, not the others.
        let _ = Reader(&text).read(&mut found);
    }
    found
}

/// What is left of a header.
struct Reader<'a>(&'a str);

fn is_token(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c)
}

impl<'a> Reader<'a> {
    /// `None`: it is not as it should be from here on.
    fn read(&mut self, found: &mut Vec<Challenge>) -> Option<()> {
        loop {
            self.skip(|c| c == ',' || c == ' ' || c == '\t');
            if self.0.is_empty() {
                return Some(());
            }
            let scheme = self.take(is_token)?.to_ascii_lowercase();
            found.push(Challenge { scheme, ..Challenge::default() });
            let challenge = found.last_mut().expect("just pushed");
            if self.token68() {
                continue;
            }
            while let Some(name) = self.name() {
                let value = self.value()?;
                // The first one counts.
                challenge.parameters.entry(name).or_insert(value);
                self.skip(|c| c == ' ' || c == '\t');
                if !self.0.is_empty() && !self.0.starts_with(',') {
                    return None;
                }
            }
        }
    }

    /// Skips an opaque value in place of parameters, if there is one.
    fn token68(&mut self) -> bool {
        let rest = self.0.trim_start_matches([' ', '\t']);
        let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || "-._~+/".contains(c)));
        let value = &rest[..end.unwrap_or(rest.len())];
        let behind = rest[value.len()..].trim_start_matches('=').trim_start_matches([' ', '\t']);
        let is_one = !value.is_empty() && (behind.is_empty() || behind.starts_with(','));
        if is_one {
            self.0 = behind;
        }
        is_one
    }

    /// The name of a parameter, with its `=`; nothing is taken if there is none here.
    fn name(&mut self) -> Option<String> {
        let mut ahead = Reader(self.0);
        ahead.skip(|c| c == ',' || c == ' ' || c == '\t');
        let name = ahead.take(is_token)?.to_ascii_lowercase();
        ahead.skip(|c| c == ' ' || c == '\t');
        ahead.0 = ahead.0.strip_prefix('=')?;
        ahead.skip(|c| c == ' ' || c == '\t');
        self.0 = ahead.0;
        Some(name)
    }

    fn value(&mut self) -> Option<String> {
        let Some(quoted) = self.0.strip_prefix('"') else {
            // Some write a URL without quotes.
            let value = self.take(|c| c != ',' && c != ' ' && c != '\t' && c != '"')?;
            return Some(value.to_owned());
        };
        let mut value = String::new();
        let mut characters = quoted.char_indices();
        while let Some((at, c)) = characters.next() {
            match c {
                '"' => {
                    self.0 = &quoted[at + 1..];
                    return Some(value);
                }
                '\\' => value.push(characters.next()?.1),
                c => value.push(c),
            }
        }
        None
    }

    fn skip(&mut self, is_skipped: impl Fn(char) -> bool) {
        self.0 = self.0.trim_start_matches(is_skipped);
    }

    /// All that fits; `None` if that is nothing.
    fn take(&mut self, fits: impl Fn(char) -> bool) -> Option<&'a str> {
        let end = self.0.find(|c| !fits(c)).unwrap_or(self.0.len());
        let (taken, rest) = self.0.split_at(end);
        self.0 = rest;
        Some(taken).filter(|taken| !taken.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::HeaderValue;

    /// As `scheme name=value name=value; scheme`.
    fn shown(values: &[&str]) -> String {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(WWW_AUTHENTICATE, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        let one = |challenge: Challenge| {
            let mut text = challenge.scheme;
            for (name, value) in challenge.parameters {
                text.push_str(&format!(" {name}={value}"));
            }
            text
        };
        challenges(&headers).into_iter().map(one).collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn headers_are_read() {
        let check = |value: &str, want: &str| assert_eq!(shown(&[value]), want, "{value}");
        check(
            r#"Bearer realm="https://auth.example/token",service="registry.example",scope="repository:a/b:pull,push""#,
            "bearer realm=https://auth.example/token scope=repository:a/b:pull,push \
             service=registry.example",
        );
        check(r#"BASIC Realm="Some \"quoted\" \\ realm""#, r#"basic realm=Some "quoted" \ realm"#);
        check("Basic realm=plain", "basic realm=plain");
        check("Basic realm = \"spaced\" , charset = UTF-8", "basic charset=UTF-8 realm=spaced");
        check("Basic", "basic");
        check("Negotiate, Basic realm=\"x\"", "negotiate; basic realm=x");
        check("Negotiate YWJj==, Basic realm=\"x\"", "negotiate; basic realm=x");
        check("NTLM YWJj/+~.-_", "ntlm");
        check(
            r#"Newauth realm="apps", type=1, title="Login to \"apps\"", Basic realm="simple""#,
            r#"newauth realm=apps title=Login to "apps" type=1; basic realm=simple"#,
        );
        check(r#"Basic realm="a, Bearer realm=b""#, "basic realm=a, Bearer realm=b");
        check(
            "Bearer realm=https://auth.example/t,service=x",
            "bearer realm=https://auth.example/t service=x",
        );
        check(",, Basic realm=\"x\",,Digest realm=\"y\",", "basic realm=x; digest realm=y");
        check("Bearer realm=\"first\",realm=\"second\"", "bearer realm=first");
        check(
            "Bearer error=\"insufficient_scope\", error_description=\"\"",
            "bearer error=insufficient_scope error_description=",
        );
    }

    #[test]
    fn several_headers_are_read() {
        assert_eq!(shown(&["Basic realm=a", "Bearer realm=b"]), "basic realm=a; bearer realm=b");
        assert_eq!(shown(&["\"", "Bearer realm=b"]), "bearer realm=b");
    }

    #[test]
    fn garbage_ends_a_header() {
        let check = |value: &str, want: &str| assert_eq!(shown(&[value]), want, "{value}");
        check("", "");
        check("=", "");
        check("\"Bearer\"", "");
        check("Bearer realm=\"open", "bearer");
        check("Bearer realm=\"open\\", "bearer");
        check("Bearer realm=\"a\"b, Basic realm=c", "bearer realm=a");
        check("Bearer realm=", "bearer");
        check("Basic \u{e9}", "basic");
    }
}
