//! Filters of lists: `labels.env==prod,name~="^web"`.
//!
//! ```text
//! filter    = "" | selector *( "," selector )        all of them must hold
//! selector  = fieldpath [ operator value ]           without an operator: the field is there
//! fieldpath = field *( "." field )
//! field     = quoted | 1*( letter | digit | "_" )
//! operator  = "==" | "!=" | "~="                     "~=" searches a regular expression
//! value     = quoted | 1*( anything but "," and white space )
//! ```
//!
//! Quoted texts have the escapes of Go. `!=` holds for a field that is not there, `==` does not, and `~=` looks at an
//! empty text then. White space between words means nothing. A list takes several filters, any of which may hold.

use std::borrow::Cow;

use regex_lite::Regex;

use crate::{Error, Labels, Result};

/// The longest filter, in bytes: an expression costs time with each record.
const MAX_LEN: usize = 4096;

/// A record that can be filtered.
pub trait Fields {
    /// The value of a field; `None`: it has none.
    fn field(&self, path: &[String]) -> Option<Cow<'_, str>>;
}

/// The label that the rest of a path names, its words joined by dots.
pub fn label<'a>(labels: &'a Labels, rest: &[String]) -> Option<Cow<'a, str>> {
    labels.get(&rest.join(".")).map(|value| Cow::Borrowed(value.as_str()))
}

#[derive(Clone, Debug)]
enum Test {
    Present,
    Equal(String),
    NotEqual(String),
    Matches(Regex),
}

#[derive(Clone, Debug)]
struct Selector {
    path: Vec<String>,
    test: Test,
}

impl Selector {
    fn holds(&self, record: &impl Fields) -> bool {
        let found = record.field(&self.path);
        match &self.test {
            Test::Present => found.is_some(),
            Test::Equal(value) => found.is_some_and(|found| found == value.as_str()),
            Test::NotEqual(value) => found.is_none_or(|found| found != value.as_str()),
            Test::Matches(regex) => regex.is_match(&found.unwrap_or_default()),
        }
    }
}

/// One filter.
#[derive(Clone, Debug, Default)]
pub struct Filter(Vec<Selector>);

impl Filter {
    /// # Errors
    /// `InvalidArgument`: it is none; the message has the place.
    pub fn parse(text: &str) -> Result<Self> {
        if text.len() > MAX_LEN {
            return Err(Error::invalid(format!(
                "filters: a filter of {} bytes is too long; write at most {MAX_LEN}",
                text.len()
            )));
        }
        Parser { input: text, at: 0 }.selectors().map(Self)
    }

    /// Whether all of its selectors hold.
    pub fn matches(&self, record: &impl Fields) -> bool {
        self.0.iter().all(|selector| selector.holds(record))
    }
}

/// Filters any of which may hold; none at all lets everything through.
#[derive(Clone, Debug, Default)]
pub struct Filters {
    texts: Vec<String>,
    filters: Vec<Filter>,
}

impl Filters {
    /// # Errors
    /// `InvalidArgument`: one of them is none.
    pub fn parse(texts: Vec<String>) -> Result<Self> {
        let filters = texts.iter().map(|text| Filter::parse(text)).collect::<Result<_>>()?;
        Ok(Self { texts, filters })
    }

    /// As they were written.
    pub fn texts(&self) -> &[String] {
        &self.texts
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.filters.is_empty()
    }

    /// Whether any of them holds.
    pub fn matches(&self, record: &impl Fields) -> bool {
        self.is_empty() || self.filters.iter().any(|filter| filter.matches(record))
    }
}

struct Parser<'a> {
    input: &'a str,
    /// In bytes.
    at: usize,
}

fn is_field(char: char) -> bool {
    char.is_ascii_alphanumeric() || char == '_'
}

fn is_operator(char: char) -> bool {
    matches!(char, '=' | '!' | '~')
}

fn is_value(char: char) -> bool {
    char != ',' && !char.is_whitespace() && !char.is_control()
}

impl<'a> Parser<'a> {
    fn error(&self, at: usize, message: &str) -> Error {
        let place = match self.input[at..].chars().next() {
            Some(char) => {
                let after = &self.input[at + char.len_utf8()..];
                format!("[{} >|{char}|< {after}]", &self.input[..at])
            }
            None => format!("[{}]", self.input),
        };
        Error::invalid(format!("filters: parse error: {place}: {message}"))
    }

    /// The next character that is no white space.
    fn peek(&mut self) -> Option<char> {
        let rest = self.input[self.at..].trim_start();
        self.at = self.input.len() - rest.len();
        rest.chars().next()
    }

    /// The run of such characters from here.
    fn run(&mut self, is_of_it: impl Fn(char) -> bool) -> &'a str {
        let rest = &self.input[self.at..];
        let len = rest.find(|char| !is_of_it(char)).unwrap_or(rest.len());
        self.at += len;
        &rest[..len]
    }

    fn selectors(&mut self) -> Result<Vec<Selector>> {
        let mut selectors = Vec::new();
        if self.peek().is_none() {
            return Ok(selectors);
        }
        loop {
            selectors.push(self.selector()?);
            match self.peek() {
                None => return Ok(selectors),
                Some(',') => self.at += 1,
                Some(char) => {
                    return Err(self.error(self.at, &format!("unexpected input: {char}")));
                }
            }
        }
    }

    fn selector(&mut self) -> Result<Selector> {
        let mut path = vec![self.field()?];
        while self.peek() == Some('.') {
            self.at += 1;
            path.push(self.field()?);
        }
        if matches!(self.peek(), None | Some(',')) {
            return Ok(Selector { path, test: Test::Present });
        }
        let at = self.at;
        let operator = self.run(is_operator);
        let make: fn(String) -> Result<Test, regex_lite::Error> = match operator {
            "==" => |value| Ok(Test::Equal(value)),
            "!=" => |value| Ok(Test::NotEqual(value)),
            "~=" => |value| Regex::new(&value).map(Test::Matches),
            "" => return Err(self.error(at, r#"expected an operator ("=="|"!="|"~=")"#)),
            other => return Err(self.error(at, &format!("unsupported operator {other:?}"))),
        };
        self.peek();
        let at = self.at;
        let value = self.value()?;
        let test = make(value)
            .map_err(|error| self.error(at, &format!("bad regular expression: {error}")))?;
        Ok(Selector { path, test })
    }

    fn field(&mut self) -> Result<String> {
        match self.peek() {
            Some('"') => self.quoted(),
            Some(char) if is_field(char) => Ok(self.run(is_field).to_owned()),
            _ => Err(self.error(self.at, "expected field or quoted")),
        }
    }

    fn value(&mut self) -> Result<String> {
        match self.peek() {
            Some('"') => self.quoted(),
            Some(char) if is_value(char) => Ok(self.run(is_value).to_owned()),
            _ => Err(self.error(self.at, "expected value or quoted")),
        }
    }

    fn quoted(&mut self) -> Result<String> {
        let begin = self.at;
        let bad =
            |parser: &Self, what: &str| parser.error(begin, &format!("unquoting failed: {what}"));
        self.at += 1;
        let mut bytes = Vec::new();
        loop {
            let Some(char) = self.input[self.at..].chars().next() else {
                return Err(bad(self, "the quote is not closed"));
            };
            self.at += char.len_utf8();
            match char {
                '"' => break,
                '\n' => return Err(bad(self, "a line ends in it")),
                '\\' => {
                    if !self.escape(&mut bytes) {
                        return Err(bad(self, "an escape is none"));
                    }
                }
                char => bytes.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        String::from_utf8(bytes).map_err(|_| bad(self, "it is not UTF-8"))
    }

    /// What stands behind a backslash. `false`: it is no escape.
    fn escape(&mut self, out: &mut Vec<u8>) -> bool {
        let Some(char) = self.input[self.at..].chars().next() else { return false };
        self.at += char.len_utf8();
        let simple = match char {
            'a' => 7,
            'b' => 8,
            'f' => 12,
            'n' => b'\n',
            'r' => b'\r',
            't' => b'\t',
            'v' => 11,
            '\\' => b'\\',
            '"' => b'"',
            '0'..='7' => {
                self.at -= 1;
                let number = self.number(3, 8).and_then(|number| u8::try_from(number).ok());
                return number.map(|byte| out.push(byte)).is_some();
            }
            'x' => {
                let number = self.number(2, 16).and_then(|number| u8::try_from(number).ok());
                return number.map(|byte| out.push(byte)).is_some();
            }
            'u' | 'U' => {
                let digits = if char == 'u' { 4 } else { 8 };
                let Some(char) = self.number(digits, 16).and_then(char::from_u32) else {
                    return false;
                };
                out.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes());
                return true;
            }
            _ => return false,
        };
        out.push(simple);
        true
    }

    fn number(&mut self, digits: usize, radix: u32) -> Option<u32> {
        let text = self.input.get(self.at..self.at + digits)?;
        if !text.chars().all(|char| char.is_digit(radix)) {
            return None;
        }
        self.at += digits;
        u32::from_str_radix(text, radix).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Record {
        name: &'static str,
        labels: Labels,
    }

    impl Fields for Record {
        fn field(&self, path: &[String]) -> Option<Cow<'_, str>> {
            match path.split_first()? {
                (name, []) if name == "name" => Some(self.name.into()),
                (name, [empty]) if name == "an" && empty == "empty" => Some("".into()),
                (labels, rest) if labels == "labels" => label(&self.labels, rest),
                _ => None,
            }
        }
    }

    /// Names of the records that a filter lets through.
    fn found(filter: &str) -> String {
        let record = |name, pairs: &[(&str, &str)]| Record {
            name,
            labels: pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect(),
        };
        let records = [
            record("foo", &[("foo", "true"), ("env", "prod")]),
            record("bar", &[("bar", "true"), ("a.b", "x y")]),
            record("foobar", &[("foo", "false"), ("very complex label", "some,thing")]),
            record("baz", &[]),
        ];
        let filter = Filter::parse(filter).unwrap_or_else(|error| panic!("{filter}: {error}"));
        let names = records.iter().filter(|record| filter.matches(*record));
        names.map(|record| record.name).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn filters() {
        const ALL: &str = "foo bar foobar baz";
        for (filter, want) in [
            ("", ALL),
            ("   ", ALL),
            ("name", ALL),
            ("nothing", ""),
            ("labels.foo", "foo foobar"),
            ("labels.foo==true", "foo"),
            ("labels.foo == true", "foo"),
            (" labels . foo  ==  true , name ", "foo"),
            ("labels.foo,labels.env", "foo"),
            ("name==bar", "bar"),
            ("name!=bar", "foo foobar baz"),
            ("name~=ba", "bar foobar baz"),
            ("name~=^ba", "bar baz"),
            ("name~=^ba,name!=baz", "bar"),
            ("name~=\"^(foo|baz)$\"", "foo baz"),
            ("name==foo,name==bar", ""),
            ("labels.a.b", "bar"),
            ("labels.\"a.b\"==\"x y\"", "bar"),
            ("an.empty", ALL),
            ("labels.env==prod,name==foo,labels.foo", "foo"),
            ("labels.foo~=^t.*e$", "foo"),
            ("name==.foo", ""),
        ] {
            assert_eq!(found(filter), want, "{filter}");
        }
    }

    #[test]
    fn filters_errors() {
        for (filter, want) in [
            ("name==", "[name==]: expected value or quoted"),
            ("name,", "[name,]: expected field or quoted"),
            ("labels.", "[labels.]: expected field or quoted"),
            ("name=bar", "[name >|=|< bar]: unsupported operator \"=\""),
            ("name===bar", "[name >|=|< ==bar]: unsupported operator \"===\""),
            ("name==~bar", "[name >|=|< =~bar]: unsupported operator \"==~\""),
            ("name bar", "[name  >|b|< ar]: expected an operator (\"==\"|\"!=\"|\"~=\")"),
            ("name==a b", "[name==a  >|b|< ]: unexpected input: b"),
            ("==a", "[ >|=|< =a]: expected field or quoted"),
            (",", "[ >|,|< ]: expected field or quoted"),
            ("name==,x", "[name== >|,|< x]: expected value or quoted"),
            ("n\0", "[n >|\0|< ]: expected an operator (\"==\"|\"!=\"|\"~=\")"),
            ("\u{e9}==a", "[ >|\u{e9}|< ==a]: expected field or quoted"),
            ("name==\"a", "[name== >|\"|< a]: unquoting failed: the quote is not closed"),
            ("name==\"\\q\"", "[name== >|\"|< \\q\"]: unquoting failed: an escape is none"),
            ("name==\"\\xff\"", "[name== >|\"|< \\xff\"]: unquoting failed: it is not UTF-8"),
        ] {
            let error = Filter::parse(filter).expect_err(filter);
            assert_eq!(error.message(), format!("filters: parse error: {want}"), "{filter}");
            assert_eq!(error.class(), crate::Class::InvalidArgument);
        }
        // Refused when it is read, not when it is used.
        let error = Filter::parse("name~=(").unwrap_err();
        let want = "filters: parse error: [name~= >|(|< ]: bad regular expression: ";
        assert!(error.message().starts_with(want), "{error}");
        assert!(Filter::parse(&format!("a=={}", "x".repeat(MAX_LEN))).is_err());
    }

    #[test]
    fn filters_absent() {
        assert_eq!(found("labels.env==prod"), "foo");
        assert_eq!(found("labels.env!=prod"), "bar foobar baz");
        assert_eq!(found("labels.env==\"\""), "");
        assert_eq!(found("an.empty==\"\""), "foo bar foobar baz");
        assert_eq!(found("labels.env~=^$"), "bar foobar baz");
        assert_eq!(found("labels.env!=prod,labels.foo"), "foobar");
    }

    #[test]
    fn filters_quoted() {
        assert_eq!(found("labels.\"very complex label\"==\"some,thing\""), "foobar");
        // A selector behind a quoted value.
        assert_eq!(found("labels.\"a.b\"==\"x y\",name==bar"), "bar");
        assert_eq!(found("name==\"foo\",labels.env==prod"), "foo");
        assert_eq!(found("\"name\"==foo"), "foo");
        assert_eq!(found("name==\"f\\x6fo\""), "foo");
        assert_eq!(found("name==\"\\146\\u006f\\U0000006f\""), "foo");
        let parsed = Filter::parse("a==\"\\a\\b\\f\\n\\r\\t\\v\\\\\\\"\"").unwrap();
        let Test::Equal(value) = &parsed.0[0].test else { panic!("{parsed:?}") };
        assert_eq!(value, "\u{7}\u{8}\u{c}\n\r\t\u{b}\\\"");
    }

    #[test]
    fn any_of_several_may_hold() {
        let record = Record { name: "foo", labels: Labels::new() };
        let holds = |texts: &[&str]| {
            let texts = texts.iter().map(|text| (*text).to_owned()).collect();
            Filters::parse(texts).unwrap().matches(&record)
        };
        assert!(holds(&[]));
        assert!(holds(&["name==bar", "name==foo"]));
        assert!(!holds(&["name==bar", "name==baz"]));
        assert!(holds(&["name==bar", ""]));
    }

    /// No text makes it panic, and what it takes it takes in a bounded time.
    #[test]
    fn no_text_makes_it_panic() {
        let pieces =
            ["a", ".", "==", "~=", "\"", "\\", ",", " ", "\u{e9}", "(", "x{9}", "\\u12", "="];
        let mut state = 1_u64;
        for _ in 0..20_000 {
            let mut text = String::new();
            for _ in 0..8 {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                text.push_str(pieces[usize::try_from(state >> 33).unwrap() % pieces.len()]);
            }
            if let Ok(filter) = Filter::parse(&text) {
                filter.matches(&Record { name: "aaa", labels: Labels::new() });
            }
        }
    }
}
