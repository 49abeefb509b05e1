//! The `key=value,key=value` values of buildx's flags: one CSV record, where a field with commas stands in quotes.
//! Reads text only; what the keys mean is the caller's.

use std::collections::BTreeMap;

/// Splits one CSV record (RFC 4180) into its fields.
pub fn fields(text: &str) -> Result<Vec<String>, String> {
    let mut fields = vec![String::new()];
    let mut chars = text.chars().peekable();
    let mut quoted = false;
    while let Some(c) = chars.next() {
        let Some(field) = fields.last_mut() else { break };
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                field.push('"');
            }
            '"' if quoted => quoted = false,
            '"' if field.is_empty() => quoted = true,
            '"' => return Err(format!("a quote in the middle of a field in `{text}`")),
            ',' if !quoted => fields.push(String::new()),
            c => field.push(c),
        }
    }
    if quoted { Err(format!("a quote is not closed in `{text}`")) } else { Ok(fields) }
}

/// Reads `key=value` fields; keys are lower-cased, a field without `=` is a key with the value `true`.
pub fn pairs(text: &str) -> Result<BTreeMap<String, String>, String> {
    let mut pairs = BTreeMap::new();
    for field in fields(text)? {
        let (key, value) = field.split_once('=').unwrap_or((field.as_str(), "true"));
        if key.trim().is_empty() {
            return Err(format!("`{text}` has an empty field; expected key=value"));
        }
        pairs.insert(key.trim().to_ascii_lowercase(), value.to_owned());
    }
    Ok(pairs)
}

/// Bytes of `64m`, `1g`, `512`.
pub fn bytes(text: &str) -> Result<u64, String> {
    let lower = text.trim().to_ascii_lowercase();
    let number = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = match &lower[number.len()..] {
        "" | "b" => 1_u64,
        "k" | "kb" | "kib" => 1 << 10,
        "m" | "mb" | "mib" => 1 << 20,
        "g" | "gb" | "gib" => 1 << 30,
        "t" | "tb" | "tib" => 1 << 40,
        unit => return Err(format!("`{text}` is not a size: `{unit}` is no unit (b, k, m, g, t)")),
    };
    let value: f64 = number.trim().parse().map_err(|_| format!("`{text}` is not a size such as 64m or 1.5g"))?;
    let size = value * factor as f64;
    if size.is_finite() && size >= 0.0 { Ok(size as u64) } else { Err(format!("`{text}` is not a size")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_with_commas_stand_in_quotes() {
        assert_eq!(fields(r#"type=image,"name=a,b",push=true"#).unwrap(), ["type=image", "name=a,b", "push=true"]);
        assert_eq!(fields(r#""a""b""#).unwrap(), [r#"a"b"#]);
        assert!(fields(r#"a,"b"#).is_err());
    }

    #[test]
    fn sizes() {
        assert_eq!(bytes("64m"), Ok(64 << 20));
        assert_eq!(bytes("1.5g"), Ok(3 << 29));
        assert!(bytes("12q").is_err());
    }
}
