//! Rust source without what is not code.

/// The same text with spaces for comments and for the insides of literals; lines stay where they are.
pub(super) fn code_of(text: &str) -> String {
    let mut scanner = Scanner { rest: text.chars().collect(), at: 0, code: String::new() };
    while let Some(next) = scanner.peek(0) {
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        match next {
            '/' if scanner.peek(1) == Some('/') => {
                scanner.blank_until(|at| at.peek(0) == Some('\n'))
            }
            '/' if scanner.peek(1) == Some('*') => scanner.blank_comment(),
            '"' => scanner.blank_string(),
            '\'' => scanner.blank_character(),
            'r' | 'b' | 'c' if !scanner.code.ends_with(is_word) => scanner.keep_prefix(),
            _ => scanner.keep(1),
        }
    }
    scanner.code
}

struct Scanner {
    rest: Vec<char>,
    at: usize,
    code: String,
}

impl Scanner {
    fn peek(&self, ahead: usize) -> Option<char> {
        self.rest.get(self.at + ahead).copied()
    }

    fn keep(&mut self, count: usize) {
        let end = (self.at + count).min(self.rest.len());
        self.code.extend(&self.rest[self.at..end]);
        self.at = end;
    }

    fn blank(&mut self, count: usize) {
        let end = (self.at + count).min(self.rest.len());
        let blank = |c: &char| if *c == '\n' { '\n' } else { ' ' };
        self.code.extend(self.rest[self.at..end].iter().map(blank));
        self.at = end;
    }

    fn blank_until(&mut self, is_end: impl Fn(&Self) -> bool) {
        while self.at < self.rest.len() && !is_end(self) {
            self.blank(1);
        }
    }

    /// They nest.
    fn blank_comment(&mut self) {
        let mut depth = 0;
        loop {
            match (self.peek(0), self.peek(1)) {
                (Some('/'), Some('*')) => depth += 1,
                (Some('*'), Some('/')) => depth -= 1,
                (None, _) => return,
                _ => {
                    self.blank(1);
                    continue;
                }
            }
            self.blank(2);
            if depth == 0 {
                return;
            }
        }
    }

    fn blank_string(&mut self) {
        self.keep(1);
        while let Some(next) = self.peek(0).filter(|next| *next != '"') {
            self.blank(if next == '\\' { 2 } else { 1 });
        }
        self.keep(1);
    }

    /// A character, or the name of a lifetime.
    fn blank_character(&mut self) {
        match (self.peek(1), self.peek(2)) {
            (Some('\\'), _) => {
                self.keep(1);
                self.blank(2);
                self.blank_until(|at| at.peek(0) == Some('\''));
                self.keep(1);
            }
            (Some(_), Some('\'')) => {
                self.keep(1);
                self.blank(1);
                self.keep(1);
            }
            _ => self.keep(1),
        }
    }

    /// What may be the first letter of a raw string.
    fn keep_prefix(&mut self) {
        let letters = if self.peek(0) != Some('r') && self.peek(1) == Some('r') { 2 } else { 1 };
        let mut hashes = 0;
        while self.peek(letters + hashes) == Some('#') {
            hashes += 1;
        }
        let is_raw =
            self.peek(letters - 1) == Some('r') && self.peek(letters + hashes) == Some('"');
        if !is_raw {
            return self.keep(1);
        }
        self.keep(letters + hashes + 1);
        self.blank_until(|at| {
            at.peek(0) == Some('"') && (1..=hashes).all(|i| at.peek(i) == Some('#'))
        });
        self.keep(1 + hashes);
    }
}

/// How many lines there are before the tests: a module of them at the end of the file.
pub(super) fn lines_without_tests(text: &str) -> usize {
    let lines: Vec<&str> = text.lines().collect();
    let begins_tests = |at: &usize| {
        let mut behind = lines[at + 1..].iter().skip_while(|line| line.starts_with("#["));
        lines[*at] == "#[cfg(test)]"
            && behind.next().is_some_and(|line| line.starts_with("mod ") && line.ends_with('{'))
    };
    (0..lines.len()).find(begins_tests).unwrap_or(lines.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_code_is_left() {
        let check = |text: &str, expected: &str| assert_eq!(code_of(text), expected, "{text}");
        check("a // b\nc", "a     \nc");
        check("a /* b /* c */\n d */ e", "a             \n      e");
        check(r#"a("b\"c") d"#, r#"a("    ") d"#);
        check("a(\"b\nc\")", "a(\" \n \")");
        check(r##"r"a\" b"##, r##"r"  " b"##);
        check(r###"br#"a"b"# c"###, r###"br#"   "# c"###);
        check("b\"ab\" bar r#type", "b\"  \" bar r#type");
        check("for\"a\"", "for\" \"");
        check("'a' '\\'' '\\u{e9}' &'a b '\"' c", "' ' '  ' '      ' &'a b ' ' c");
        check("\"open", "\"    ");
        check("/* open", "       ");
    }

    #[test]
    fn tests_are_not_counted() {
        let check =
            |text: &str, expected| assert_eq!(lines_without_tests(text), expected, "{text}");
        check("", 0);
        check("a\nb\n", 2);
        check("a\n#[cfg(test)]\nmod tests {\n}\n", 1);
        check("a\n#[cfg(test)]\n#[expect(x)]\nmod tests {\n}\n", 1);
        check("a\n#[cfg(test)]\nmod tests;\nb\n", 4);
        check("a\n#[cfg(test)]\nfn f() {}\n    #[cfg(test)]\n", 4);
    }
}
