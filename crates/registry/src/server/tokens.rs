//! Tokens: who asked, what was granted, until when, signed with a key of this registry's own. Whoever holds one needs no
//! password until it ends. Form: `payload.signature`, both base64url; the payload is JSON, the signature HMAC-SHA256.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use ring::hmac;
use serde::{Deserialize, Serialize};

use super::name::Repository;
use super::users::{Action, Who};

/// Seconds that a token is good for.
pub const LIFETIME: u64 = 300;
/// Seconds that a refresh token is good for.
pub const REFRESH: u64 = 30 * 24 * 3600;

/// A right to a repository, or to the catalog.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// The repository; `*` is the catalog.
    pub name: String,
    /// Actions, by their words.
    pub actions: Vec<String>,
}

/// What a token says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// Who asked for it.
    pub user: Who,
    /// What it grants.
    pub grants: Vec<Grant>,
    /// Until when, seconds since 1970.
    pub until: u64,
    /// Whether it is good for other tokens alone.
    pub refresh: bool,
}

impl Token {
    /// Whether it grants an action.
    pub fn may(&self, name: &Repository, action: Action) -> bool {
        self.grants.iter().any(|grant| grant.name == name.as_str() && grant.actions.iter().any(|a| a == action.word()))
    }

    /// The catalog may be read.
    pub fn may_list(&self) -> bool {
        self.grants.iter().any(|grant| grant.name == "*")
    }
}

/// The key that signs.
pub struct Signer(hmac::Key);

impl Signer {
    /// With these bytes, which nobody else knows.
    pub fn new(secret: &[u8]) -> Signer {
        Signer(hmac::Key::new(hmac::HMAC_SHA256, secret))
    }

    /// A token as text.
    pub fn sign(&self, token: &Token) -> String {
        let payload = BASE64.encode(serde_json::json!(token).to_string());
        let signature = BASE64.encode(hmac::sign(&self.0, payload.as_bytes()));
        format!("{payload}.{signature}")
    }

    /// Reads a token that this key signed and that is good `now` (seconds since 1970).
    pub fn read(&self, text: &str, now: u64) -> Option<Token> {
        let (payload, signature) = text.split_once('.')?;
        hmac::verify(&self.0, payload.as_bytes(), &BASE64.decode(signature).ok()?).ok()?;
        let token: Token = serde_json::from_slice(&BASE64.decode(payload).ok()?).ok()?;
        (token.until > now).then_some(token)
    }
}

/// Reads a scope: `repository:NAME:ACTION,ACTION` or `registry:catalog:*`. What it does not understand asks for nothing.
pub fn parse_scope(text: &str) -> Option<(String, Vec<Action>)> {
    if text.starts_with("registry:catalog:") {
        return Some(("*".to_owned(), Vec::new()));
    }
    let (name, actions) = text.strip_prefix("repository:")?.rsplit_once(':')?;
    let mut wanted: Vec<Action> = actions.split(',').filter_map(Action::parse).collect();
    if actions.split(',').any(|action| action == "*") {
        wanted = vec![Action::Pull, Action::Push, Action::Delete];
    }
    Some((name.to_owned(), wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_signed_counts_and_not_for_ever() {
        let signer = Signer::new(b"secret");
        let grants = vec![Grant { name: "a/b".into(), actions: vec!["pull".into()] }];
        let token = Token { user: Some("me".into()), grants, until: 1000, refresh: false };
        let text = signer.sign(&token);
        assert_eq!(signer.read(&text, 999), Some(token.clone()));
        assert_eq!(signer.read(&text, 1000), None);
        assert_eq!(Signer::new(b"other").read(&text, 999), None);
        let more = Token { until: 9999, ..token.clone() };
        let forged = format!("{}.{}", signer.sign(&more).split_once('.').unwrap().0, text.split_once('.').unwrap().1);
        assert_eq!(signer.read(&forged, 999), None);
        let name = Repository::parse("a/b").unwrap();
        assert!(token.may(&name, Action::Pull) && !token.may(&name, Action::Push));
        for broken in ["", ".", "x.y", "eyJ.z"] {
            assert_eq!(signer.read(broken, 0), None);
        }
    }

    #[test]
    fn scopes() {
        assert_eq!(parse_scope("repository:a/b:pull,push"), Some(("a/b".into(), vec![Action::Pull, Action::Push])));
        assert_eq!(parse_scope("repository:a:*").unwrap().1.len(), 3);
        assert_eq!(parse_scope("registry:catalog:*"), Some(("*".into(), vec![])));
        assert_eq!(parse_scope("x"), None);
    }
}
