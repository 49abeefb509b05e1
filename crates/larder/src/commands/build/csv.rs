//! The `key=value,key=value` values of buildx's flags: one CSV record, where a field with commas stands in quotes.
//! Reads text only; what the keys mean is the caller's.

use std::collections::BTreeMap;

pub use builder::csv::fields;

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

/// Yes or no, as Go reads it.
pub fn truth(key: &str, value: &str) -> Result<bool, String> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(format!("{key}={value}: expected true or false")),
    }
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
    fn sizes() {
        assert_eq!(bytes("64m"), Ok(64 << 20));
        assert_eq!(bytes("1.5g"), Ok(3 << 29));
        assert!(bytes("12q").is_err());
    }
}
