//! One CSV record (RFC 4180): how BuildKit's clients write lists into one attribute. Text only.

/// Splits one record into its fields.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_with_commas_stand_in_quotes() {
        assert_eq!(fields(r#"type=image,"name=a,b",push=true"#).unwrap(), ["type=image", "name=a,b", "push=true"]);
        assert_eq!(fields(r#""a""b""#).unwrap(), [r#"a"b"#]);
        assert!(fields(r#"a,"b"#).is_err());
    }
}
