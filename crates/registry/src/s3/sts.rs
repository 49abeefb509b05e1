//! AWS's token service: keys of a role, for keys of our own or for the token of a web identity ("AssumeRole" and
//! "AssumeRoleWithWebIdentity", STS API reference, version 2011-06-15).

use super::credentials::{Ambient, now};
use super::sign::{self, Keys, Request, Scope};
use super::{suffix, xml};
use crate::Error;
use crate::attend;
use crate::client::root_cause;

/// What we call ourselves in the account's logs, where nobody says otherwise.
const NAME: &str = "larder";

/// Takes on a role with keys of our own.
pub async fn assume(
    http: &reqwest::Client,
    ambient: &Ambient,
    region: &str,
    role: &str,
    keys: &Keys,
) -> Result<Keys, Error> {
    let name = ambient.variable("AWS_ROLE_SESSION_NAME").unwrap_or(NAME);
    let form = form("AssumeRole", role, name, &[]);
    let url = url(ambient, region);
    let host = url.split_once("://").map_or(url.as_str(), |(_, rest)| rest).trim_end_matches('/').to_owned();
    let (time, payload) = (sign::time(now()), sign::sha256(form.as_bytes()));
    let mut headers = vec![("content-type", FORM.to_owned()), ("x-amz-date", time.clone())];
    headers.extend(keys.token.clone().map(|token| ("x-amz-security-token", token)));
    let request = Request { method: "POST", host: &host, path: "/", query: &[], headers: &headers, payload: &payload };
    let signature = sign::authorization(&request, &Scope { time: &time, region, service: "sts" }, keys);
    headers.push(("authorization", signature));
    send(http, &url, headers, form, role).await
}

/// Takes on a role with a token that names who we are.
pub async fn web_identity(
    http: &reqwest::Client,
    ambient: &Ambient,
    region: &str,
    role: &str,
    name: Option<&str>,
    token: &str,
) -> Result<Keys, Error> {
    let form = form("AssumeRoleWithWebIdentity", role, name.unwrap_or(NAME), &[("WebIdentityToken", token)]);
    send(http, &url(ambient, region), vec![("content-type", FORM.to_owned())], form, role).await
}

const FORM: &str = "application/x-www-form-urlencoded";

fn url(ambient: &Ambient, region: &str) -> String {
    let given = ambient.variable("AWS_ENDPOINT_URL_STS").or_else(|| ambient.variable("AWS_ENDPOINT_URL"));
    let given = given.map(|url| format!("{}/", url.trim_end_matches('/')));
    given.unwrap_or_else(|| format!("https://sts.{region}.{}/", suffix(region)))
}

fn form(action: &str, role: &str, name: &str, more: &[(&str, &str)]) -> String {
    let fields = [("Action", action), ("Version", "2011-06-15"), ("RoleArn", role), ("RoleSessionName", name)];
    let fields: Vec<_> = fields.iter().chain(more).map(|(name, value)| (*name, (*value).to_owned())).collect();
    sign::query(&fields)
}

async fn send(
    http: &reqwest::Client,
    url: &str,
    headers: Vec<(&'static str, String)>,
    form: String,
    role: &str,
) -> Result<Keys, Error> {
    let failed = |reason: String| Error::NoKeys { tried: format!("{url} for the role {role}, which failed: {reason}") };
    let request = headers.into_iter().fold(http.post(url), |request, (name, value)| request.header(name, value));
    let response = attend::send(request.body(form), attend::SILENCE).await.map_err(|e| failed(e.to_string()))?;
    let status = response.status();
    let answer = response.text().await.map_err(|e| failed(root_cause(&e)))?;
    if !status.is_success() {
        let said = xml::text(&answer, "Message").unwrap_or_else(|| answer.chars().take(200).collect());
        return Err(failed(format!("{status}: {said}")));
    }
    let found = || {
        let text = |name: &str| xml::text(&answer, name);
        let until = oci::time::parse_rfc3339(&text("Expiration")?)?.0;
        let (id, secret, token) = (text("AccessKeyId")?, text("SecretAccessKey")?, text("SessionToken"));
        Some(Keys { id, secret, token, until: Some(until) })
    };
    found().ok_or_else(|| failed("the answer has no keys".to_owned()))
}
