//! The little XML that S3 and STS answer with: elements by name, in order, without attributes that matter. What is not
//! well formed has no elements.

/// What is inside each element of a name, in order. Elements of one name do not lie in each other in these answers.
pub fn all<'a>(xml: &'a str, name: &str) -> Vec<&'a str> {
    let (open, close) = (format!("<{name}"), format!("</{name}>"));
    let mut found = Vec::new();
    let mut rest = xml;
    while let Some(at) = rest.find(&open) {
        rest = &rest[at + open.len()..];
        // `<Key` also begins `<KeyCount>`.
        if !rest.starts_with(['>', ' ', '/', '\n', '\t', '\r']) {
            continue;
        }
        let Some(end) = rest.find('>') else { break };
        let empty = rest[..end].ends_with('/');
        rest = &rest[end + 1..];
        if empty {
            found.push("");
            continue;
        }
        let Some(end) = rest.find(&close) else { break };
        found.push(&rest[..end]);
        rest = &rest[end + close.len()..];
    }
    found
}

/// The text of the first element of a name.
pub fn text(xml: &str, name: &str) -> Option<String> {
    all(xml, name).first().map(|inside| unescape(inside))
}

fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let Some((name, after)) = rest[1..].split_once(';') else { break };
        match entity(name) {
            Some(c) => out.push(c),
            None => out.push_str(&rest[..name.len() + 2]),
        }
        rest = after;
    }
    out.push_str(rest);
    out
}

fn entity(name: &str) -> Option<char> {
    match name {
        "amp" => Some('&'),
        "lt" => Some('<'),
        "gt" => Some('>'),
        "quot" => Some('"'),
        "apos" => Some('\''),
        _ => {
            let number = name.strip_prefix('#')?;
            let code = match number.strip_prefix(['x', 'X']) {
                Some(hex) => u32::from_str_radix(hex, 16).ok()?,
                None => number.parse().ok()?,
            };
            char::from_u32(code)
        }
    }
}

/// Text as it stands in an element.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_by_name() {
        let xml = r#"<?xml version="1.0"?><R xmlns="a"><KeyCount>2</KeyCount><C><Key>a&amp;b&#x2F;&#33;</Key></C><C>
            <Key>&lt;&nope;&</Key></C><Prefix/></R>"#;
        let keys: Vec<_> = all(xml, "C").into_iter().filter_map(|c| text(c, "Key")).collect();
        assert_eq!(keys, ["a&b/!", "<&nope;&"]);
        assert_eq!(text(xml, "KeyCount").as_deref(), Some("2"));
        assert_eq!(text(xml, "Prefix").as_deref(), Some(""));
        assert_eq!(text(xml, "None"), None);
        assert_eq!(text("<Key>", "Key"), None);
        assert_eq!(unescape(&escape("<a & \"b\">")), "<a & \"b\">");
    }
}
