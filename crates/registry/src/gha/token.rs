//! What a job's token says: which scopes its caches are in (claim `ac`), and until when it counts. Its signature is the
//! service's to check.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use serde::Deserialize;

/// One scope: a branch or a tag.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Scope {
    /// `refs/heads/main`.
    #[serde(rename = "Scope")]
    pub name: String,
    /// Bits: 1 to read, 2 to write.
    permission: u32,
}

impl Scope {
    /// Whether entries of this scope may be written.
    pub fn is_written(&self) -> bool {
        self.permission & 2 != 0
    }
}

#[derive(Deserialize)]
struct Claims {
    ac: String,
    exp: f64,
}

/// The scopes of a token that counts still.
pub fn scopes(token: &str) -> Result<Vec<Scope>, String> {
    let body = token.split('.').nth(1).ok_or("the token is no JSON web token")?;
    let json = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(body.trim_end_matches('='));
    let json = json.map_err(|e| format!("the token is no JSON web token: {e}"))?;
    let claims: Claims =
        serde_json::from_slice(&json).map_err(|e| format!("the token names no scopes of caches: {e}"))?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    if claims.exp < now {
        return Err("the token has expired".to_owned());
    }
    serde_json::from_str(&claims.ac).map_err(|e| format!("the token's scopes can't be read: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(claims: &str) -> String {
        format!("e30.{}.sig", base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(claims))
    }

    #[test]
    fn scopes_of_tokens() {
        let ac = r#"[{\"Scope\":\"refs/heads/a\",\"Permission\":3},{\"Scope\":\"refs/heads/main\",\"Permission\":1}]"#;
        let found = scopes(&token(&format!(r#"{{"ac":"{ac}","exp":4102444800,"nbf":1}}"#))).unwrap();
        let seen: Vec<_> = found.iter().map(|scope| (scope.name.as_str(), scope.is_written())).collect();
        assert_eq!(seen, [("refs/heads/a", true), ("refs/heads/main", false)]);
        for (bad, said) in [
            ("abc".to_owned(), "no JSON web token"),
            (token(r#"{"ac":"[]","exp":1}"#), "expired"),
            (token("{}"), "names no scopes"),
            (token(r#"{"ac":"x","exp":4102444800}"#), "can't be read"),
        ] {
            let error = scopes(&bad).unwrap_err();
            assert!(error.contains(said), "{error}");
        }
    }
}
