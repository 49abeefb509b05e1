//! Who we are to a registry: basic credentials, and bearer tokens that a token service gives for them.
//! Tokens are kept in memory for as long as they are good, credentials never.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::BoxFuture;
use reqwest::Response;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, WWW_AUTHENTICATE};

use crate::ask::Ask;
use crate::client::{escape, host_of, lock, root_cause, scope};
use crate::{Client, Error, attend};

/// Gives credentials when a registry asks for them.
pub trait Login: Send + Sync {
    /// User and secret for a host; `None` is anonymous. An empty user with a secret is an identity token.
    fn credentials<'a>(&'a self, host: &'a str) -> BoxFuture<'a, Result<Option<(String, String)>, String>>;
}

/// A `WWW-Authenticate` header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Challenge {
    Basic,
    Bearer(BTreeMap<String, String>),
}

impl Challenge {
    /// Reads a header (RFC 9110, 11.6.1).
    pub(crate) fn read(header: &str) -> Option<Challenge> {
        let (scheme, rest) = header.trim().split_once(' ').unwrap_or((header.trim(), ""));
        if scheme.eq_ignore_ascii_case("basic") {
            return Some(Challenge::Basic);
        }
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let mut fields = BTreeMap::new();
        let mut rest = rest.trim();
        while let Some((name, after)) = rest.split_once('=') {
            let (value, left) = match after.strip_prefix('"') {
                Some(quoted) => quoted.split_once('"')?,
                None => after.split_once(',').map_or((after, ""), |(v, l)| (v, l)),
            };
            fields.insert(name.trim_matches([' ', ',']).to_ascii_lowercase(), value.to_owned());
            rest = left.trim_start_matches([' ', ',']);
        }
        Some(Challenge::Bearer(fields))
    }
}

/// `Basic …`.
pub(crate) fn basic(user: &str, secret: &str) -> String {
    use base64::Engine;
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("{user}:{secret}")))
}

impl Client {
    /// Finds what to say in `Authorization`. `known` was not good enough; if somebody found another meanwhile, that serves.
    pub(crate) async fn log_in(
        &self,
        ask: &Ask<'_>,
        response: &Response,
        login: &dyn Login,
        known: Option<String>,
    ) -> Result<(), Error> {
        let host = host_of(&ask.url);
        let turn = lock(&self.logging_in).entry(host.clone()).or_default().clone();
        let _turn = turn.lock().await;
        if lock(&self.tokens).get(&(host.clone(), scope(ask))) != known.as_ref() {
            return Ok(());
        }
        let failed = |reason: String| Error::Token { host: host.clone(), scope: scope(ask), reason };
        let headers = response.headers().get_all(WWW_AUTHENTICATE).iter();
        let challenge = headers.filter_map(|h| Challenge::read(h.to_str().ok()?)).next();
        let domain = &ask.reference.domain;
        let unknown = |reason| Error::Login { host: domain.clone(), reason };
        let credentials = login.credentials(domain).await.map_err(unknown)?;
        let header = match challenge {
            Some(Challenge::Basic) | None => match credentials {
                Some((user, secret)) => basic(&user, &secret),
                None => return Ok(()),
            },
            Some(Challenge::Bearer(fields)) => {
                let realm = fields.get("realm").ok_or_else(|| failed("it names no token service".to_owned()))?;
                let service = fields.get("service").map(String::as_str).unwrap_or_default();
                // Who believes the registry believes its token service in the same way.
                let http = self.http_for(domain)?;
                format!(
                    "Bearer {}",
                    token(&http, realm, service, &scope(ask), credentials, self.silence()).await.map_err(failed)?
                )
            }
        };
        lock(&self.tokens).insert((host.clone(), scope(ask)), header);
        Ok(())
    }
}

/// A bearer token (distribution-spec, "Token Authentication"). An identity token is changed for one as OAuth2 has it.
async fn token(
    http: &reqwest::Client,
    realm: &str,
    service: &str,
    scope: &str,
    credentials: Option<(String, String)>,
    silence: Duration,
) -> Result<String, String> {
    #[derive(serde::Deserialize)]
    struct Answer {
        token: Option<String>,
        access_token: Option<String>,
    }
    let request = match credentials {
        Some((user, secret)) if user.is_empty() => {
            let fields = [
                ("grant_type", "refresh_token"),
                ("service", service),
                ("scope", scope),
                ("client_id", "larder"),
                ("refresh_token", &secret),
            ];
            let body = fields.iter().map(|(n, v)| format!("{n}={}", escape(v))).collect::<Vec<_>>().join("&");
            http.post(realm).header(CONTENT_TYPE, "application/x-www-form-urlencoded").body(body)
        }
        credentials => {
            let mark = if realm.contains('?') { '&' } else { '?' };
            let request = http.get(format!("{realm}{mark}service={}&scope={}", escape(service), escape(scope)));
            match credentials {
                Some((user, secret)) => request.header(AUTHORIZATION, basic(&user, &secret)),
                None => request,
            }
        }
    };
    let response = attend::send(request, silence).await.map_err(|e| e.to_string())?;
    if !response.status().is_success() {
        return Err(format!("{realm} answered {}", response.status()));
    }
    let bytes = response.bytes().await.map_err(|e| root_cause(&e))?;
    let answer: Answer = serde_json::from_slice(&bytes).map_err(|e| e.to_string())?;
    let tokens = [answer.token, answer.access_token].into_iter().flatten();
    tokens.into_iter().find(|token| !token.is_empty()).ok_or_else(|| "the answer has no token".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges() {
        let header = r#"Bearer realm="https://auth.example/token",service="registry",scope="repository:a/b:pull,push""#;
        let Some(Challenge::Bearer(fields)) = Challenge::read(header) else { panic!("no bearer") };
        assert_eq!(fields["realm"], "https://auth.example/token");
        assert_eq!(fields["scope"], "repository:a/b:pull,push");
        assert_eq!(Challenge::read("Basic realm=x"), Some(Challenge::Basic));
        assert_eq!(Challenge::read("Digest x"), None);
    }
}
