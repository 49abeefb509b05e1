//! Docker's `config.json`: credentials by host, the helpers that keep them, and proxies for what is built. The path is the caller's.
//! Nothing is ever written to it.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use base64::Engine;
use serde::Deserialize;

use crate::Error;

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Config {
    auths: BTreeMap<String, Auth>,
    cred_helpers: BTreeMap<String, String>,
    creds_store: String,
    proxies: BTreeMap<String, Proxies>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Proxies {
    http_proxy: String,
    https_proxy: String,
    ftp_proxy: String,
    no_proxy: String,
    all_proxy: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "lowercase", default)]
struct Auth {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Helped {
    username: String,
    secret: String,
}

fn read(path: &Path) -> Result<Config, Error> {
    let bad = |reason: String| Error::Config { path: path.to_owned(), reason };
    match std::fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|e| bad(e.to_string())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Config::default()),
        Err(error) => Err(bad(error.to_string())),
    }
}

/// Build arguments for the proxies that the configuration at `path` names, each in both spellings.
pub fn proxies(path: &Path) -> Result<Vec<(String, String)>, Error> {
    let mut config = read(path)?;
    let Some(proxies) = config.proxies.remove("default") else { return Ok(Vec::new()) };
    let named = [
        ("HTTP_PROXY", proxies.http_proxy),
        ("HTTPS_PROXY", proxies.https_proxy),
        ("FTP_PROXY", proxies.ftp_proxy),
        ("NO_PROXY", proxies.no_proxy),
        ("ALL_PROXY", proxies.all_proxy),
    ];
    let named = named.into_iter().filter(|(_, value)| !value.is_empty());
    Ok(named.flat_map(|(name, value)| [(name.to_owned(), value.clone()), (name.to_lowercase(), value)]).collect())
}

/// User and secret for `host` by the configuration at `path`. A file that is not there knows nobody. May run a
/// credential helper, so it blocks.
pub fn credentials(path: &Path, host: &str) -> Result<Option<(String, String)>, Error> {
    let bad = |reason: String| Error::Config { path: path.to_owned(), reason };
    let config = read(path)?;
    let names = names(host);
    let helper = names.iter().find_map(|n| config.cred_helpers.get(n));
    let helper = helper.or((!config.creds_store.is_empty()).then_some(&config.creds_store));
    if let Some(helper) = helper {
        for name in &names {
            if let Some(found) = ask(helper, name).map_err(&bad)? {
                return Ok(Some(found));
            }
        }
    }
    let by_host = || config.auths.iter().find(|(name, _)| host_of(name) == host).map(|(_, auth)| auth);
    let Some(auth) = names.iter().find_map(|n| config.auths.get(n)).or_else(by_host) else { return Ok(None) };
    if !auth.identitytoken.is_empty() {
        return Ok(Some((String::new(), auth.identitytoken.clone())));
    }
    if !auth.auth.is_empty() {
        let bytes = base64::engine::general_purpose::STANDARD.decode(&auth.auth);
        let text = bytes.ok().and_then(|b| String::from_utf8(b).ok());
        let pair = text.as_ref().and_then(|t| t.split_once(':'));
        let (user, secret) = pair.ok_or_else(|| bad(format!("`auth` of {host} is no base64 of user:password")))?;
        return Ok(Some((user.to_owned(), secret.trim_end_matches('\0').to_owned())));
    }
    let named = !auth.username.is_empty();
    Ok(named.then(|| (auth.username.clone(), auth.password.clone())))
}

/// The host that an entry is for: `https://host/v1/` and `host/v2` are of old.
fn host_of(name: &str) -> &str {
    let rest = name.split_once("://").map_or(name, |(_, rest)| rest);
    rest.split('/').next().unwrap_or(rest)
}

/// How a host may be written in the file. Docker's own registry has an old name.
fn names(host: &str) -> Vec<String> {
    let mut names = vec![host.to_owned(), format!("https://{host}"), format!("http://{host}")];
    if matches!(host, "docker.io" | "registry-1.docker.io" | "index.docker.io") {
        names.insert(0, "https://index.docker.io/v1/".to_owned());
    }
    names
}

/// Asks `docker-credential-HELPER get`.
fn ask(helper: &str, host: &str) -> Result<Option<(String, String)>, String> {
    let program = format!("docker-credential-{helper}");
    let mut child = Command::new(&program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| format!("it names the helper {program}, which can't be run: {e}"))?;
    if let Some(mut input) = child.stdin.take() {
        match input.write_all(host.as_bytes()) {
            // It may know without reading.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {}
            written => written.map_err(|e| format!("{program}: {e}"))?,
        }
    }
    let output = child.wait_with_output().map_err(|e| format!("{program}: {e}"))?;
    if !output.status.success() {
        // Helpers of the protocol's first version say it on standard output, in these words.
        let said = String::from_utf8_lossy(&output.stdout);
        let said = if said.trim().is_empty() { String::from_utf8_lossy(&output.stderr) } else { said };
        let has_none = ["credentials not found", "not implemented", "no credentials"];
        let has_none = has_none.iter().any(|words| said.to_lowercase().contains(words));
        return if has_none { Ok(None) } else { Err(format!("{program} failed ({}): {}", output.status, said.trim())) };
    }
    let helped: Helped = serde_json::from_slice(&output.stdout).map_err(|e| format!("{program} answered: {e}"))?;
    let user = if helped.username == "<token>" { String::new() } else { helped.username };
    Ok(Some((user, helped.secret)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_docker_writes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        std::fs::write(&path, r#"{"auths":{"127.0.0.1:5000":{"auth":"dTpw"},"x":{"identitytoken":"t"}}}"#).unwrap();
        assert_eq!(credentials(&path, "127.0.0.1:5000").unwrap(), Some(("u".into(), "p".into())));
        assert_eq!(credentials(&path, "x").unwrap(), Some((String::new(), "t".into())));
        assert_eq!(credentials(&path, "y").unwrap(), None);
        std::fs::write(&path, r#"{"auths":{"https://a.example/v1/":{"auth":"dTpw"}}}"#).unwrap();
        assert_eq!(credentials(&path, "a.example").unwrap(), Some(("u".into(), "p".into())));
        std::fs::write(&path, r#"{"proxies":{"default":{"httpProxy":"http://p:1","noProxy":"a"}}}"#).unwrap();
        let names: Vec<String> = proxies(&path).unwrap().into_iter().map(|(name, value)| name + "=" + &value).collect();
        assert_eq!(names, ["HTTP_PROXY=http://p:1", "http_proxy=http://p:1", "NO_PROXY=a", "no_proxy=a"]);
        assert_eq!(credentials(&dir.path().join("none"), "y").unwrap(), None);
        std::fs::write(&path, "{").unwrap();
        assert!(credentials(&path, "y").unwrap_err().to_string().contains("config.json"));
    }
}
