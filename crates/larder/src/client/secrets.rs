//! `--secret`: where a secret's bytes come from. They are read when a step asks, and kept nowhere.

use std::path::PathBuf;

use builder::session::Error;

/// A secret's place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Secret {
    /// A file.
    File(PathBuf),
    /// An environment variable, by name.
    Variable(String),
}

impl Secret {
    /// What a `--secret` of the command line names. A file that is not there is told now, as buildx does: a build that
    /// happens to need no secret would hide a misspelt one.
    pub fn given(text: &str) -> Result<(String, Secret), String> {
        let (id, secret) = Secret::parse(text, |name| std::env::var_os(name).is_some())?;
        if let Secret::File(path) = &secret {
            std::fs::metadata(path).map_err(|e| format!("--secret {text}: {}: {e}", path.display()))?;
        }
        Ok((id, secret))
    }

    /// Reads `id=NAME[,type=file|env][,src=FILE|,env=VARIABLE]` as buildx does: without a place, a variable named like
    /// the id serves, and else a file.
    fn parse(text: &str, variable: impl Fn(&str) -> bool) -> Result<(String, Secret), String> {
        let pairs = crate::commands::build::csv::pairs(text)?;
        let mut id = None;
        let (mut kind, mut file, mut env) = (None, None, None);
        for (key, value) in pairs {
            match key.as_str() {
                "id" => id = Some(value),
                "type" if value == "file" || value == "env" => kind = Some(value),
                "type" => return Err(format!("--secret {text}: type is `file` or `env`, not `{value}`")),
                "src" | "source" => file = Some(value),
                "env" => env = Some(value),
                other => return Err(format!("--secret {text}: unknown key `{other}`; expected id, type, src or env")),
            }
        }
        if kind.as_deref() == Some("env") && env.is_none() {
            env = file.take();
        }
        let id = id.or_else(|| env.clone()).or_else(|| file.clone());
        let id = id.ok_or_else(|| format!("--secret {text}: an id is missing; expected id=NAME,src=FILE"))?;
        let place = match (env, file) {
            (Some(name), _) => Secret::Variable(name),
            (None, Some(path)) => Secret::File(path.into()),
            (None, None) if kind.as_deref() != Some("file") && variable(&id) => Secret::Variable(id.clone()),
            (None, None) => Secret::File(id.clone().into()),
        };
        Ok((id, place))
    }

    /// The secret's bytes.
    pub fn read(&self) -> Result<Vec<u8>, Error> {
        match self {
            Secret::File(path) => std::fs::read(path).map_err(|source| Error::Read { path: path.clone(), source }),
            Secret::Variable(name) => {
                use std::os::unix::ffi::OsStringExt;
                let value = std::env::var_os(name);
                let value = value.ok_or_else(|| Error::Other(format!("the secret's variable {name} is not set")))?;
                Ok(value.into_vec())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_as_buildx_finds_them() {
        let parse = |text| Secret::parse(text, |name| name == "TOKEN").unwrap();
        assert_eq!(parse("id=a,src=/f"), ("a".into(), Secret::File("/f".into())));
        assert_eq!(parse("id=a,env=B"), ("a".into(), Secret::Variable("B".into())));
        assert_eq!(parse("id=TOKEN"), ("TOKEN".into(), Secret::Variable("TOKEN".into())));
        assert_eq!(parse("type=env,id=a,src=B"), ("a".into(), Secret::Variable("B".into())));
        assert_eq!(parse("id=other"), ("other".into(), Secret::File("other".into())));
        assert!(Secret::parse("colour=red", |_| false).is_err());
    }
}
