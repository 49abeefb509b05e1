//! Shell words as Dockerfiles have them: quotes, escapes and `${…}` forms (BuildKit's frontend/dockerfile/shell rules).
//! No commands, no globbing, no arithmetic: only variables, which the caller looks up.

use std::collections::BTreeSet;

/// Looks up a variable.
pub type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// What an expansion found beside its text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Variables that were named and have a value.
    pub used: BTreeSet<String>,
    /// Variables that were named without a default and have no value.
    pub unset: BTreeSet<String>,
}

/// How words are read.
#[derive(Clone, Copy, Debug)]
pub struct Shell {
    /// `\` or a backtick.
    pub escape: char,
    /// Quotes stay.
    pub raw_quotes: bool,
    /// Quotes are characters like any other, as in a heredoc.
    pub plain_quotes: bool,
    /// Escapes stay.
    pub raw_escapes: bool,
    /// Variables without a value stay as written.
    pub keep_unset: bool,
}

impl Shell {
    /// Quotes and escapes are taken away, unset variables are empty.
    pub fn new(escape: char) -> Shell {
        Shell { escape, raw_quotes: false, plain_quotes: false, raw_escapes: false, keep_unset: false }
    }

    /// Expands `text` into one word.
    pub fn word(&self, text: &str, lookup: Lookup<'_>) -> Result<String, String> {
        Ok(self.expand(text, lookup)?.0)
    }

    /// Expands `text` into one word, and says which variables it named.
    pub fn expand(&self, text: &str, lookup: Lookup<'_>) -> Result<(String, Found), String> {
        let mut reader = self.reader(text, lookup);
        reader.until(None)?;
        Ok((reader.whole, reader.found))
    }

    /// Expands `text` into words, split at white space that no quote covers (that of values too).
    pub fn words(&self, text: &str, lookup: Lookup<'_>) -> Result<Vec<String>, String> {
        let mut reader = self.reader(text, lookup);
        reader.until(None)?;
        reader.end_word();
        Ok(reader.words)
    }

    fn reader<'a>(&self, text: &str, lookup: Lookup<'a>) -> Reader<'a> {
        Reader {
            shell: *self,
            chars: text.chars().collect(),
            at: 0,
            lookup,
            whole: String::new(),
            words: Vec::new(),
            current: None,
            found: Found::default(),
        }
    }
}

struct Reader<'a> {
    shell: Shell,
    chars: Vec<char>,
    at: usize,
    lookup: Lookup<'a>,
    whole: String,
    words: Vec<String>,
    current: Option<String>,
    found: Found,
}

impl Reader<'_> {
    fn peek(&self) -> Option<char> {
        self.chars.get(self.at).copied()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek();
        self.at += usize::from(c.is_some());
        c
    }

    fn end_word(&mut self) {
        self.words.extend(self.current.take());
    }

    /// Text that may hold word ends.
    fn push(&mut self, text: &str) {
        self.whole.push_str(text);
        for c in text.chars() {
            if c.is_whitespace() {
                self.end_word();
            } else {
                self.current.get_or_insert_default().push(c);
            }
        }
    }

    /// Text that is part of one word, also when it is empty.
    fn push_raw(&mut self, text: &str) {
        self.whole.push_str(text);
        self.current.get_or_insert_default().push_str(text);
    }

    /// Reads up to an unquoted `stop`, which stays unread.
    fn until(&mut self, stop: Option<char>) -> Result<(), String> {
        while let Some(c) = self.peek() {
            if Some(c) == stop {
                return Ok(());
            }
            match c {
                '\'' if !self.shell.plain_quotes => self.single_quoted()?,
                '"' if !self.shell.plain_quotes => self.double_quoted()?,
                '$' => {
                    let value = self.dollar()?;
                    self.push(&value);
                }
                c if c == self.shell.escape => self.escaped(),
                c => {
                    self.at += 1;
                    self.push(&c.to_string());
                }
            }
        }
        match stop {
            Some(stop) => Err(format!("unexpected end of statement while looking for a matching `{stop}`")),
            None => Ok(()),
        }
    }

    fn escaped(&mut self) {
        self.at += 1;
        if self.shell.raw_escapes {
            self.push_raw(&self.shell.escape.to_string());
        }
        // An escape at the very end stands for nothing.
        if let Some(c) = self.next() {
            self.push_raw(&c.to_string());
        }
    }

    fn single_quoted(&mut self) -> Result<(), String> {
        let start = self.at;
        self.at += 1;
        while let Some(c) = self.next() {
            if c == '\'' {
                let raw = self.shell.raw_quotes;
                let range = if raw { start..self.at } else { start + 1..self.at - 1 };
                let text: String = self.chars[range].iter().collect();
                self.push_raw(&text);
                return Ok(());
            }
        }
        Err("unexpected end of statement while looking for a matching single quote".into())
    }

    fn double_quoted(&mut self) -> Result<(), String> {
        self.at += 1;
        let mut text = String::new();
        while let Some(c) = self.peek() {
            match c {
                '"' => {
                    self.at += 1;
                    if self.shell.raw_quotes {
                        text = format!("\"{text}\"");
                    }
                    self.push_raw(&text);
                    return Ok(());
                }
                '$' => text.push_str(&self.dollar()?),
                c => {
                    self.at += 1;
                    if c != self.shell.escape {
                        text.push(c);
                        continue;
                    }
                    if self.shell.raw_escapes {
                        text.push(c);
                    }
                    match self.peek() {
                        Some(n) if n == '"' || n == '$' || n == self.shell.escape => {
                            self.at += 1;
                            text.push(n);
                        }
                        Some(_) if !self.shell.raw_escapes => text.push(c),
                        _ => {}
                    }
                }
            }
        }
        Err("unexpected end of statement while looking for a matching double quote".into())
    }

    fn name(&mut self) -> String {
        let start = self.at;
        match self.peek() {
            Some(c) if c.is_ascii_digit() || "@*#?-!$".contains(c) => self.at += 1,
            _ => {
                while self.peek().is_some_and(|c| c.is_alphanumeric() || c == '_') {
                    self.at += 1;
                }
            }
        }
        self.chars[start..self.at].iter().collect()
    }

    fn value(&mut self, name: &str, has_default: bool) -> Option<String> {
        let value = (self.lookup)(name);
        if value.is_some() {
            self.found.used.insert(name.to_owned());
        } else if !has_default {
            self.found.unset.insert(name.to_owned());
        }
        value
    }

    fn dollar(&mut self) -> Result<String, String> {
        let start = self.at;
        self.at += 1;
        if self.peek() != Some('{') {
            let name = self.name();
            if name.is_empty() {
                return Ok("$".into());
            }
            let as_written = if self.shell.keep_unset { format!("${name}") } else { String::new() };
            return Ok(self.value(&name, false).unwrap_or(as_written));
        }
        self.at += 1;
        let name = self.name();
        if name.is_empty() {
            return Err("bad substitution: a variable's name is missing after `${`".into());
        }
        let value = self.braced(&name)?;
        if self.next() != Some('}') {
            return Err(format!("bad substitution: `}}` is missing after `${{{name}`"));
        }
        let as_written = || self.chars[start..self.at].iter().collect::<String>();
        Ok(match value {
            Some(value) => value,
            None if self.shell.keep_unset => as_written(),
            None => String::new(),
        })
    }

    /// What stands between the name and `}`; `None` is unset.
    fn braced(&mut self, name: &str) -> Result<Option<String>, String> {
        match self.peek() {
            Some('}') | None => Ok(self.value(name, false)),
            Some(':') => {
                self.at += 1;
                match self.next() {
                    Some(c @ ('-' | '+' | '?')) => self.modified(name, c, true),
                    other => Err(format!(
                        "unsupported modifier `:{}` in `${{{name}…}}`: expected :-, :+ or :?",
                        other.map(String::from).unwrap_or_default()
                    )),
                }
            }
            Some(c @ ('-' | '+' | '?')) => {
                self.at += 1;
                self.modified(name, c, false)
            }
            Some(c @ ('#' | '%')) => {
                self.at += 1;
                let longest = self.peek() == Some(c);
                self.at += usize::from(longest);
                let pattern = self.inner('}')?;
                let value = self.value(name, false);
                Ok(value
                    .map(|v| if c == '#' { cut_front(&v, &pattern, longest) } else { cut_back(&v, &pattern, longest) }))
            }
            Some('/') => {
                self.at += 1;
                let all = self.peek() == Some('/');
                self.at += usize::from(all);
                let pattern = self.inner('/')?;
                self.at += 1;
                let replacement = self.inner('}')?;
                let value = self.value(name, false);
                Ok(value.map(|v| replace(&v, &pattern, &replacement, all)))
            }
            Some(c) => Err(format!("unsupported modifier `{c}` in `${{{name}…}}`: expected one of : - + ? # % /")),
        }
    }

    fn modified(&mut self, name: &str, modifier: char, empty_is_unset: bool) -> Result<Option<String>, String> {
        let word = self.inner('}')?;
        let value = self.value(name, true);
        let set = value.as_ref().is_some_and(|v| !empty_is_unset || !v.is_empty());
        match modifier {
            '-' => Ok(Some(value.filter(|_| set).unwrap_or(word))),
            '+' => Ok(Some(if set { word } else { String::new() })),
            _ if set => Ok(value),
            _ => Err(format!("{name}: {}", if word.is_empty() { "is not allowed to be unset" } else { &word })),
        }
    }

    /// A nested word up to `stop`.
    fn inner(&mut self, stop: char) -> Result<String, String> {
        let whole = std::mem::take(&mut self.whole);
        let (words, current) = (std::mem::take(&mut self.words), self.current.take());
        let result = self.until(Some(stop));
        let text = std::mem::replace(&mut self.whole, whole);
        self.words = words;
        self.current = current;
        result.map(|()| text)
    }
}

/// Whether all of `text` matches a shell pattern (`*`, `?`, `\x`).
fn matches(pattern: &[char], text: &[char]) -> bool {
    match pattern.split_first() {
        None => text.is_empty(),
        Some(('*', rest)) => (0..=text.len()).any(|n| matches(rest, &text[n..])),
        Some(('?', rest)) => !text.is_empty() && matches(rest, &text[1..]),
        Some(('\\', rest)) if !rest.is_empty() => text.first() == rest.first() && matches(&rest[1..], &text[1..]),
        Some((c, rest)) => text.first() == Some(c) && matches(rest, &text[1..]),
    }
}

fn chars(text: &str) -> Vec<char> {
    text.chars().collect()
}

fn cut_front(value: &str, pattern: &str, longest: bool) -> String {
    let (value, pattern) = (chars(value), chars(pattern));
    let mut lengths: Vec<usize> = (0..=value.len()).collect();
    if longest {
        lengths.reverse();
    }
    let cut = lengths.into_iter().find(|n| matches(&pattern, &value[..*n])).unwrap_or(0);
    value[cut..].iter().collect()
}

fn cut_back(value: &str, pattern: &str, longest: bool) -> String {
    let (value, pattern) = (chars(value), chars(pattern));
    let mut starts: Vec<usize> = (0..=value.len()).collect();
    if !longest {
        starts.reverse();
    }
    let cut = starts.into_iter().find(|n| matches(&pattern, &value[*n..])).unwrap_or(value.len());
    value[..cut].iter().collect()
}

fn replace(value: &str, pattern: &str, replacement: &str, all: bool) -> String {
    let (value, pattern) = (chars(value), chars(pattern));
    let (mut out, mut at, mut done) = (String::new(), 0, false);
    while at <= value.len() {
        let end =
            if done && !all { None } else { (at + 1..=value.len()).rev().find(|e| matches(&pattern, &value[at..*e])) };
        match end {
            Some(end) => {
                out.push_str(replacement);
                at = end;
                done = true;
            }
            None => {
                out.extend(value.get(at));
                at += 1;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lookup(name: &str) -> Option<String> {
        match name {
            "X" => Some("value".into()),
            "EMPTY" => Some(String::new()),
            "SPACED" => Some("a  b".into()),
            "PATHS" => Some("/usr/lib/x.tar.gz".into()),
            _ => None,
        }
    }

    #[test]
    fn forms() {
        let cases = [
            ("$X/${X}", "value/value"),
            ("'$X' \"$X\"", "$X value"),
            (r"\$X \'", "$X '"),
            ("${U:-d}${EMPTY:-e}${EMPTY-f}|", "de|"),
            ("${X:+yes}${U:+no}${EMPTY+set}", "yesset"),
            ("${PATHS#*/}", "usr/lib/x.tar.gz"),
            ("${PATHS##*/}", "x.tar.gz"),
            ("${PATHS%.*}", "/usr/lib/x.tar"),
            ("${PATHS%%.*}", "/usr/lib/x"),
            ("${X/a/o} ${PATHS//\\//_}", "volue _usr_lib_x.tar.gz"),
            ("${U:-${X}}", "value"),
            ("$", "$"),
            ("a$U.b", "a.b"),
            (r#""a\"b\c""#, r#"a"b\c"#),
        ];
        for (text, wanted) in cases {
            assert_eq!(Shell::new('\\').word(text, &lookup).as_deref(), Ok(wanted), "{text}");
        }
        for bad in ["${U:?gone}", "${", "${X", "'a", "\"a", "${X:=a}"] {
            assert!(Shell::new('\\').word(bad, &lookup).is_err(), "{bad}");
        }
    }

    #[test]
    fn words_split_where_nothing_quotes() {
        let words = |text| Shell::new('\\').words(text, &lookup).unwrap();
        assert_eq!(words("a  'b c' $SPACED \"$SPACED\" ''"), ["a", "b c", "a", "b", "a  b", ""]);
    }

    proptest! {
        #[test]
        fn never_panics(text in "[ a-zX$ {}:#%/?'\"\\\\-]{0,30}") {
            drop(Shell::new('\\').words(&text, &lookup));
        }

        #[test]
        fn single_quotes_keep_everything(text in "[^']{0,20}") {
            prop_assert_eq!(Shell::new('\\').word(&format!("'{text}'"), &lookup), Ok(text));
        }
    }
}
