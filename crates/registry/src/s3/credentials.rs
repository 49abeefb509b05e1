//! Who we are to AWS, found where its own tools find it: variables, the files of `aws configure` with their profiles, a
//! web identity (Kubernetes, CI), a container's or a machine's role. Keys that end are fetched anew before they do.
//! Nothing of it is read from the process here: variables and the home folder are given.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Deserialize;
use tokio::sync::Mutex;

use super::profiles::{Profile, Profiles};
use super::sign::Keys;
use super::sts;
use crate::client::root_cause;
use crate::{Client, Error};

/// Keys are fetched anew so long before they end, in seconds.
const EARLY: i64 = 300;
/// A machine without a metadata service does not make anybody wait longer.
const NEARBY: Duration = Duration::from_secs(2);

/// What the surroundings of a process say of AWS.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Ambient {
    /// Variables whose names begin with `AWS_`.
    pub variables: BTreeMap<String, String>,
    /// Where AWS's tools keep `.aws/`.
    pub home: Option<PathBuf>,
}

impl std::fmt::Debug for Ambient {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(to, "Ambient({:?}, {:?})", self.variables.keys().collect::<Vec<_>>(), self.home)
    }
}

/// Keys of a role, as services of AWS hand them out.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Lent {
    access_key_id: String,
    secret_access_key: String,
    #[serde(alias = "SessionToken")]
    token: Option<String>,
    expiration: Option<String>,
}

impl Ambient {
    /// A variable that says something.
    pub fn variable(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// The region that requests go to where nothing else says one.
    pub fn region(&self) -> Option<String> {
        let variable = self.variable("AWS_REGION").or_else(|| self.variable("AWS_DEFAULT_REGION"));
        let profile = || Profiles::read(self).ok()?.find(&self.profile()).region;
        variable.map(str::to_owned).or_else(profile)
    }

    /// Keys that can be had without asking anybody: of variables or of the profile's files.
    pub fn written_down(&self) -> Result<Option<Keys>, Error> {
        if self.variable("AWS_PROFILE").is_none()
            && let Some(keys) = self.of_variables()
        {
            return Ok(Some(keys));
        }
        Ok(Profiles::read(self)?.find(&self.profile()).keys)
    }

    fn of_variables(&self) -> Option<Keys> {
        Some(Keys {
            id: self.variable("AWS_ACCESS_KEY_ID")?.to_owned(),
            secret: self.variable("AWS_SECRET_ACCESS_KEY")?.to_owned(),
            token: self.variable("AWS_SESSION_TOKEN").map(str::to_owned),
            until: None,
        })
    }

    fn profile(&self) -> String {
        self.variable("AWS_PROFILE").unwrap_or("default").to_owned()
    }
}

/// Gives keys as long as it is asked.
#[derive(Debug)]
pub struct Wallet {
    fixed: Option<Keys>,
    /// Take on this role with the keys that are found.
    role: Option<String>,
    ambient: Ambient,
    region: String,
    http: reqwest::Client,
    known: Mutex<Option<Keys>>,
}

impl Wallet {
    /// With `fixed` keys nothing else is asked. `role` is the ARN of a role to take on with what is found.
    pub(super) fn new(
        fixed: Option<Keys>,
        role: Option<String>,
        ambient: &Ambient,
        region: &str,
        http: reqwest::Client,
    ) -> Wallet {
        let (ambient, region, known) = (ambient.clone(), region.to_owned(), Mutex::default());
        Wallet { fixed, role, ambient, region, http, known }
    }

    /// Whatever keys the surroundings of a client give.
    pub fn of(client: &Client, region: &str) -> Result<Wallet, Error> {
        Ok(Wallet::new(None, None, client.ambient(), region, client.http()?.clone()))
    }

    /// The keys of now.
    pub async fn keys(&self) -> Result<Keys, Error> {
        let mut known = self.known.lock().await;
        if let Some(keys) = known.as_ref().filter(|keys| keys.until.is_none_or(|until| until - EARLY > now())) {
            return Ok(keys.clone());
        }
        let mut keys = match &self.fixed {
            Some(keys) => keys.clone(),
            None => self.find().await?,
        };
        if let Some(role) = &self.role {
            keys = sts::assume(&self.http, &self.ambient, &self.region, role, &keys).await?;
        }
        *known = Some(keys.clone());
        Ok(keys)
    }

    async fn find(&self) -> Result<Keys, Error> {
        let ambient = &self.ambient;
        let named = ambient.variable("AWS_PROFILE").is_some();
        if !named {
            if let Some(keys) = ambient.of_variables() {
                return Ok(keys);
            }
            if let Some(keys) = self.web_identity(&Profile::of_variables(ambient)).await? {
                return Ok(keys);
            }
        }
        let profiles = Profiles::read(ambient)?;
        if let Some(keys) = self.of_profile(&profiles, &ambient.profile()).await? {
            return Ok(keys);
        }
        if let Some(keys) = self.container().await? {
            return Ok(keys);
        }
        if let Some(keys) = self.machine().await? {
            return Ok(keys);
        }
        let profile = ambient.profile();
        Err(Error::NoKeys {
            tried: format!(
                "the attributes access_key_id and secret_access_key, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a web identity, the profile `{profile}` in ~/.aws, and the roles of a container and of a machine"
            ),
        })
    }

    async fn of_profile(&self, profiles: &Profiles, name: &str) -> Result<Option<Keys>, Error> {
        let profile = profiles.find(name);
        if profile.role.is_some() && profile.token_file.is_some() {
            return self.web_identity(&profile).await;
        }
        if let Some(role) = &profile.role {
            let source = match (&profile.source_profile, profile.credential_source.as_deref()) {
                (Some(source), _) => profiles.find(source).keys,
                (None, Some("Environment")) => self.ambient.of_variables(),
                (None, Some("EcsContainer")) => self.container().await?,
                (None, Some("Ec2InstanceMetadata")) => self.machine().await?,
                (None, _) => None,
            };
            let reason = format!("the profile `{name}` names a role, and nothing to take it on with");
            let source = source.ok_or(Error::NoKeys { tried: reason })?;
            return Ok(Some(sts::assume(&self.http, &self.ambient, &self.region, role, &source).await?));
        }
        if let Some(keys) = profile.keys {
            return Ok(Some(keys));
        }
        let Some(command) = profile.process else { return Ok(None) };
        let failed = |reason: String| Error::NoKeys { tried: format!("`{command}`, which failed: {reason}") };
        let output = tokio::process::Command::new("sh").arg("-c").arg(&command).output().await;
        let output = output.map_err(|e| failed(e.to_string()))?;
        if !output.status.success() {
            return Err(failed(output.status.to_string()));
        }
        lent(&output.stdout).map(Some).map_err(failed)
    }

    async fn web_identity(&self, profile: &Profile) -> Result<Option<Keys>, Error> {
        let (Some(role), Some(file)) = (&profile.role, &profile.token_file) else { return Ok(None) };
        let read = tokio::fs::read_to_string(file).await;
        let token = read.map_err(|e| Error::Config { path: file.clone(), reason: e.to_string() })?;
        let name = profile.session_name.as_deref();
        sts::web_identity(&self.http, &self.ambient, &self.region, role, name, token.trim()).await.map(Some)
    }

    /// The role of a container (ECS, EKS): an address, and perhaps a token to show there.
    async fn container(&self) -> Result<Option<Keys>, Error> {
        let ambient = &self.ambient;
        let full = ambient.variable("AWS_CONTAINER_CREDENTIALS_FULL_URI").map(str::to_owned);
        let relative = ambient.variable("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI");
        let Some(url) = relative.map(|path| format!("http://169.254.170.2{path}")).or(full) else { return Ok(None) };
        let mut request = self.http.get(&url);
        let token = match ambient.variable("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE") {
            Some(file) => {
                let failed = |e: std::io::Error| Error::Config { path: file.into(), reason: e.to_string() };
                Some(tokio::fs::read_to_string(file).await.map_err(failed)?.trim().to_owned())
            }
            None => ambient.variable("AWS_CONTAINER_AUTHORIZATION_TOKEN").map(str::to_owned),
        };
        if let Some(token) = token {
            request = request.header("authorization", token);
        }
        let failed = |reason: String| Error::NoKeys { tried: format!("{url}, which failed: {reason}") };
        let answer = ask(request).await.map_err(&failed)?;
        lent(answer.as_bytes()).map(Some).map_err(failed)
    }

    /// The role of a machine (EC2): its metadata service, version 2. A machine that has none has no role.
    async fn machine(&self) -> Result<Option<Keys>, Error> {
        let ambient = &self.ambient;
        if ambient.variable("AWS_EC2_METADATA_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
            return Ok(None);
        }
        let base = ambient.variable("AWS_EC2_METADATA_SERVICE_ENDPOINT").unwrap_or("http://169.254.169.254");
        let base = format!("{}/latest", base.trim_end_matches('/'));
        let token = self.http.put(format!("{base}/api/token"));
        let Ok(token) = ask(token.header("x-aws-ec2-metadata-token-ttl-seconds", "300")).await else { return Ok(None) };
        let get = |path: String| {
            ask(self.http.get(format!("{base}/{path}")).header("x-aws-ec2-metadata-token", token.clone()))
        };
        let folder = "meta-data/iam/security-credentials/";
        let Ok(role) = get(folder.to_owned()).await else { return Ok(None) };
        let failed = |reason: String| Error::NoKeys { tried: format!("the machine's role, which failed: {reason}") };
        let role = role.lines().next().unwrap_or_default().trim();
        let answer = get(format!("{folder}{role}")).await.map_err(&failed)?;
        lent(answer.as_bytes()).map(Some).map_err(failed)
    }
}

/// A small answer from nearby.
async fn ask(request: reqwest::RequestBuilder) -> Result<String, String> {
    let response = request.timeout(NEARBY).send().await.map_err(|e| root_cause(&e))?;
    if !response.status().is_success() {
        return Err(response.status().to_string());
    }
    response.text().await.map_err(|e| root_cause(&e))
}

fn lent(json: &[u8]) -> Result<Keys, String> {
    let lent: Lent = serde_json::from_slice(json).map_err(|e| e.to_string())?;
    let until = lent.expiration.as_deref().and_then(oci::time::parse_rfc3339).map(|(seconds, _)| seconds);
    Ok(Keys { id: lent.access_key_id, secret: lent.secret_access_key, token: lent.token, until })
}

/// Seconds since 1970.
pub(super) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
