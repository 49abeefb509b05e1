//! JSON text exactly as Go's encoding/json writes it, because BuildKit's keys are digests of that text.
//! Objects are written field by field in Go's struct order; empty fields are left out (`omitempty`).

/// An object under construction.
pub struct Object {
    text: String,
}

impl Default for Object {
    fn default() -> Object {
        Object::new()
    }
}

impl Object {
    /// `{`.
    pub fn new() -> Object {
        Object { text: String::from("{") }
    }

    /// A field with ready JSON.
    pub fn raw(mut self, key: &str, json: &str) -> Object {
        if self.text.len() > 1 {
            self.text.push(',');
        }
        string(&mut self.text, key);
        self.text.push(':');
        self.text.push_str(json);
        self
    }

    /// A string, always.
    pub fn always(self, key: &str, value: &str) -> Object {
        let json = quoted(value);
        self.raw(key, &json)
    }

    /// A string, unless empty.
    pub fn text(self, key: &str, value: &str) -> Object {
        if value.is_empty() { self } else { self.always(key, value) }
    }

    /// A number, unless zero.
    pub fn number(self, key: &str, value: i64) -> Object {
        if value == 0 { self } else { self.raw(key, &value.to_string()) }
    }

    /// `true`, unless false.
    pub fn flag(self, key: &str, value: bool) -> Object {
        if value { self.raw(key, "true") } else { self }
    }

    /// Strings, unless there are none.
    pub fn texts(self, key: &str, values: &[String]) -> Object {
        self.list(key, values, |v| quoted(v))
    }

    /// A list, unless empty.
    pub fn list<T>(self, key: &str, values: &[T], json: impl Fn(&T) -> String) -> Object {
        if values.is_empty() {
            return self;
        }
        self.raw(key, &array(values, json))
    }

    /// A nested message, unless absent.
    pub fn message<T>(self, key: &str, value: Option<&T>, json: impl Fn(&T) -> String) -> Object {
        match value {
            Some(value) => self.raw(key, &json(value)),
            None => self,
        }
    }

    /// Bytes in base64, unless empty.
    pub fn bytes(self, key: &str, value: &[u8]) -> Object {
        if value.is_empty() { self } else { self.raw(key, &base64(value)) }
    }

    /// `}`.
    pub fn end(mut self) -> String {
        self.text.push('}');
        self.text
    }
}

/// `[…]`.
pub fn array<T>(values: &[T], json: impl Fn(&T) -> String) -> String {
    let items: Vec<String> = values.iter().map(json).collect();
    format!("[{}]", items.join(","))
}

/// Bytes as a JSON string in standard base64.
pub fn base64(bytes: &[u8]) -> String {
    use base64::Engine;
    format!("\"{}\"", base64::engine::general_purpose::STANDARD.encode(bytes))
}

/// A JSON string with Go's escapes (HTML characters and line separators too).
pub fn quoted(value: &str) -> String {
    let mut text = String::with_capacity(value.len() + 2);
    string(&mut text, value);
    text
}

fn string(text: &mut String, value: &str) {
    text.push('"');
    for c in value.chars() {
        match c {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            '\t' => text.push_str("\\t"),
            '\u{8}' => text.push_str("\\b"),
            '\u{c}' => text.push_str("\\f"),
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => text.push_str(&format!("\\u{:04x}", c as u32)),
            c if (c as u32) < 0x20 => text.push_str(&format!("\\u{:04x}", c as u32)),
            c => text.push(c),
        }
    }
    text.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_as_go_does() {
        assert_eq!(quoted("a<b>&\u{2028}\u{1}\"\\é"), r#""a\u003cb\u003e\u0026\u2028\u0001\"\\é""#);
        assert_eq!(Object::new().text("a", "").number("b", 0).flag("c", true).end(), r#"{"c":true}"#);
    }
}
