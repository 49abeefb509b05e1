//! The files of `aws configure`: `~/.aws/credentials` and `~/.aws/config`, sections of profiles ("Configuration and
//! credential file settings", AWS CLI user guide). They are only read.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::credentials::Ambient;
use super::sign::Keys;
use crate::Error;

/// Settings by profile; those of the credentials file win.
pub struct Profiles(BTreeMap<String, BTreeMap<String, String>>);

/// What is used of a profile.
#[derive(Debug, Default)]
pub struct Profile {
    /// Keys that stand in a file.
    pub keys: Option<Keys>,
    /// `region`.
    pub region: Option<String>,
    /// `role_arn`.
    pub role: Option<String>,
    /// `role_session_name`.
    pub session_name: Option<String>,
    /// `source_profile`: whose keys take the role on.
    pub source_profile: Option<String>,
    /// `credential_source`: where else they come from.
    pub credential_source: Option<String>,
    /// `web_identity_token_file`.
    pub token_file: Option<PathBuf>,
    /// `credential_process`: a command that prints keys.
    pub process: Option<String>,
}

impl Profiles {
    /// Reads both files. Those that are not there hold nothing.
    pub fn read(ambient: &Ambient) -> Result<Profiles, Error> {
        let mut profiles = Profiles(BTreeMap::new());
        // The credentials file last: what it says counts.
        for (variable, name) in [("AWS_CONFIG_FILE", "config"), ("AWS_SHARED_CREDENTIALS_FILE", "credentials")] {
            let of_home = || ambient.home.as_ref().map(|home| home.join(".aws").join(name));
            let Some(path) = ambient.variable(variable).map(PathBuf::from).or_else(of_home) else { continue };
            match std::fs::read_to_string(&path) {
                Ok(text) => profiles.take(&text),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(Error::Config { path, reason: error.to_string() }),
            }
        }
        Ok(profiles)
    }

    fn take(&mut self, text: &str) {
        let mut section = None;
        for line in text.lines() {
            // Indented lines belong to nested settings, which nobody asks for.
            if line.starts_with([' ', '\t', '#', ';']) {
                continue;
            }
            if let Some(name) = line.trim().strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
                let name = name.trim();
                section = Some(name.strip_prefix("profile ").map_or(name, str::trim).to_owned());
            } else if let (Some(section), Some((name, value))) = (&section, line.split_once('=')) {
                let settings = self.0.entry(section.clone()).or_default();
                settings.insert(name.trim().to_ascii_lowercase(), value.trim().to_owned());
            }
        }
    }

    /// One profile; empty when there is none.
    pub fn find(&self, name: &str) -> Profile {
        let settings = self.0.get(name);
        let get = |name: &str| settings?.get(name).filter(|value| !value.is_empty()).cloned();
        let keys = || {
            let (id, secret) = (get("aws_access_key_id")?, get("aws_secret_access_key")?);
            Some(Keys { id, secret, token: get("aws_session_token"), until: None })
        };
        Profile {
            keys: keys(),
            region: get("region"),
            role: get("role_arn"),
            session_name: get("role_session_name"),
            source_profile: get("source_profile"),
            credential_source: get("credential_source"),
            token_file: get("web_identity_token_file").map(PathBuf::from),
            process: get("credential_process"),
        }
    }
}

impl Profile {
    /// What variables say of a web identity.
    pub fn of_variables(ambient: &Ambient) -> Profile {
        let get = |name: &str| ambient.variable(name).map(str::to_owned);
        Profile {
            role: get("AWS_ROLE_ARN"),
            session_name: get("AWS_ROLE_SESSION_NAME"),
            token_file: get("AWS_WEB_IDENTITY_TOKEN_FILE").map(PathBuf::from),
            ..Profile::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_credentials_file_counts() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join(".aws");
        std::fs::create_dir(&folder).unwrap();
        let config = "[default]\nregion = eu-west-1\naws_access_key_id=no\n[profile ci]\nrole_arn = arn:x\n\
            source_profile=default\ns3 =\n  max_concurrent_requests = 3\n; note\n";
        std::fs::write(folder.join("config"), config).unwrap();
        let credentials = "[default]\naws_access_key_id = id\naws_secret_access_key = a=b\n";
        std::fs::write(folder.join("credentials"), credentials).unwrap();
        let mut ambient = Ambient { home: Some(home.path().to_owned()), ..Ambient::default() };
        let keys = ambient.written_down().unwrap().unwrap();
        assert_eq!((keys.id.as_str(), keys.secret.as_str(), keys.token), ("id", "a=b", None));
        assert_eq!(ambient.region().as_deref(), Some("eu-west-1"));
        let ci = Profiles::read(&ambient).unwrap().find("ci");
        assert_eq!((ci.role.as_deref(), ci.source_profile.as_deref()), (Some("arn:x"), Some("default")));
        assert!(ci.keys.is_none() && Profiles::read(&ambient).unwrap().find("none").keys.is_none());
        // Variables count before files, but for a profile that is named.
        let set = |ambient: &mut Ambient, name: &str, value: &str| {
            ambient.variables.insert(name.to_owned(), value.to_owned());
        };
        set(&mut ambient, "AWS_ACCESS_KEY_ID", "variable");
        set(&mut ambient, "AWS_SECRET_ACCESS_KEY", "s");
        assert_eq!(ambient.written_down().unwrap().unwrap().id, "variable");
        set(&mut ambient, "AWS_PROFILE", "default");
        assert_eq!(ambient.written_down().unwrap().unwrap().id, "id");
        assert!(!format!("{ambient:?}").contains("variable"));
    }
}
