//! Addresses of git repositories as Dockerfiles and clients write them, and the source operations that they become.
//! Texts only: nothing is asked.

use std::collections::BTreeMap;

/// A repository, and what of it is meant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GitUrl {
    /// The address that git is given.
    pub remote: String,
    /// Host and path, the same for every way to reach them.
    pub place: String,
    /// Branch, tag or commit; empty is the remote's HEAD.
    pub reference: String,
    /// Folder in the repository; empty is all of it.
    pub subdir: String,
    /// Further attributes of the source, from the query: `git.checksum`, `git.keepgitdir`, `git.skipsubmodules`,
    /// `git.mtime`, `git.fetchbycommit`.
    pub attributes: BTreeMap<String, String>,
    /// It was written like a path (`github.com/…`): a repository only where a whole context is meant.
    pub like_a_path: bool,
}

/// An address that is a repository's and contradicts itself. The texts are BuildKit's, which clients look for.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum UrlError {
    #[error("query \"{key}\" has no value")]
    NoValue { key: String },
    #[error("query \"{key}\" has multiple values")]
    Several { key: String },
    #[error("{what} conflicts: \"{first}\" vs \"{second}\"")]
    Conflict { what: &'static str, first: String, second: String },
    #[error("branch conflicts with tag")]
    BranchAndTag,
    #[error("invalid {key} value: \"{value}\" (expected {expected})")]
    Invalid { key: String, value: String, expected: &'static str },
    #[error("unexpected query \"{key}\"")]
    Unexpected { key: String },
}

impl GitUrl {
    /// Reads an address with an optional `#REF:SUBDIR` or `?ref=…&subdir=…`; `None` for what is none, or contradicts
    /// itself.
    pub fn parse(text: &str) -> Option<GitUrl> {
        GitUrl::read(text).ok().flatten()
    }

    /// The same, telling what contradicts itself.
    pub fn read(text: &str) -> Result<Option<GitUrl>, UrlError> {
        let (base, fragment) = text.split_once('#').unwrap_or((text, ""));
        let (base, query) = base.split_once('?').unwrap_or((base, ""));
        let Some((remote, place)) = address(base) else { return Ok(None) };
        let (reference, subdir) = fragment.split_once(':').unwrap_or((fragment, ""));
        let mut url = GitUrl {
            remote,
            place,
            reference: reference.to_owned(),
            subdir: folder(subdir),
            attributes: BTreeMap::new(),
            like_a_path: base.starts_with("github.com/"),
        };
        url.query(query)?;
        Ok(Some(url))
    }

    fn query(&mut self, query: &str) -> Result<(), UrlError> {
        let mut values: BTreeMap<String, String> = BTreeMap::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            // In a query `+` is a space.
            let pair = pair.replace('+', " ");
            let (key, value) = pair.split_once('=').unwrap_or((&pair, ""));
            let key = decoded(key);
            if value.is_empty() && !matches!(key.as_str(), "submodules" | "keep-git-dir" | "fetch-by-commit") {
                return Err(UrlError::NoValue { key });
            }
            if values.insert(key.clone(), decoded(value)).is_some() {
                return Err(UrlError::Several { key });
            }
        }
        let tagged = values.contains_key("tag");
        for (key, value) in values {
            match key.as_str() {
                "ref" => settle("ref", &mut self.reference, value)?,
                "tag" => settle("ref", &mut self.reference, whole("refs/tags/", &value))?,
                "branch" if tagged => return Err(UrlError::BranchAndTag),
                "branch" => settle("ref", &mut self.reference, whole("refs/heads/", &value))?,
                "subdir" => settle("subdir", &mut self.subdir, folder(&value))?,
                "checksum" | "commit" => self.set("git.checksum", &value),
                "keep-git-dir" if flag(&key, &value)? => self.set("git.keepgitdir", "true"),
                "fetch-by-commit" if flag(&key, &value)? => self.set("git.fetchbycommit", "true"),
                "submodules" if !flag(&key, &value)? => self.set("git.skipsubmodules", "true"),
                "mtime" if matches!(value.as_str(), "checkout" | "commit") => self.set("git.mtime", &value),
                "mtime" => return Err(UrlError::Invalid { key, value, expected: "checkout or commit" }),
                "keep-git-dir" | "fetch-by-commit" | "submodules" => {}
                _ => return Err(UrlError::Unexpected { key }),
            }
        }
        Ok(())
    }

    fn set(&mut self, name: &str, value: &str) {
        self.attributes.insert(name.to_owned(), value.to_owned());
    }

    /// The identifier of a source operation (`git://…`).
    pub fn identifier(&self) -> String {
        let mut text = format!("git://{}", self.place);
        if !self.reference.is_empty() || !self.subdir.is_empty() {
            text.push('#');
            text.push_str(&self.reference);
        }
        if !self.subdir.is_empty() {
            text.push(':');
            text.push_str(&self.subdir);
        }
        text
    }

    /// Attributes of a source operation, with the names of the secrets that may log in.
    pub fn attributes(&self) -> BTreeMap<String, String> {
        let mut attributes = self.attributes.clone();
        let fixed = [
            ("git.fullurl", self.remote.as_str()),
            ("git.authtokensecret", "GIT_AUTH_TOKEN"),
            ("git.authheadersecret", "GIT_AUTH_HEADER"),
        ];
        attributes.extend(fixed.map(|(name, value)| (name.to_owned(), value.to_owned())));
        if self.remote.starts_with("ssh://") || self.remote.contains('@') && !self.remote.contains("://") {
            attributes.insert("git.mountsshsock".to_owned(), "default".to_owned());
        }
        attributes
    }
}

/// What git is given, and the place that it names; `None` for what is no repository's address.
fn address(base: &str) -> Option<(String, String)> {
    let remote = if base.starts_with("github.com/") { format!("https://{base}") } else { base.to_owned() };
    let Some((scheme, rest)) = remote.split_once("://") else {
        // user@host:path
        let (host, path) = base.split_once(':').filter(|(host, _)| host.contains('@') && !host.contains('/'))?;
        let place = format!("{}/{}", host.rsplit('@').next()?, path.trim_start_matches('/'));
        return Some((remote, place));
    };
    let is_one = match scheme {
        "git" | "ssh" => true,
        // Other files are on the web too.
        "http" | "https" => rest.ends_with(".git") || base.starts_with("github.com/"),
        _ => false,
    };
    let place = rest.rsplit_once('@').map_or(rest, |(_, host)| host).to_owned();
    is_one.then_some((remote, place))
}

fn folder(text: &str) -> String {
    match crate::pattern::clean(text.trim_start_matches('/')) {
        root if matches!(root.as_str(), "." | "/") => String::new(),
        clean => clean,
    }
}

/// Sets what may be said twice, but not differently.
fn settle(what: &'static str, place: &mut String, value: String) -> Result<(), UrlError> {
    if !place.is_empty() && *place != value {
        return Err(UrlError::Conflict { what, first: place.clone(), second: value });
    }
    *place = value;
    Ok(())
}

fn whole(prefix: &str, name: &str) -> String {
    if name.starts_with(prefix) { name.to_owned() } else { format!("{prefix}{name}") }
}

/// A truth value in any of Go's spellings; nothing is true.
fn flag(key: &str, value: &str) -> Result<bool, UrlError> {
    match value {
        "" | "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(UrlError::Invalid { key: key.to_owned(), value: value.to_owned(), expected: "true or false" }),
    }
}

/// Text of an address: `%2F` is a byte.
pub fn decoded(text: &str) -> String {
    let (bytes, mut out, mut i) = (text.as_bytes(), Vec::new(), 0);
    while i < bytes.len() {
        let code = text.get(i + 1..i + 3).filter(|_| bytes[i] == b'%').and_then(|hex| u8::from_str_radix(hex, 16).ok());
        out.push(code.unwrap_or(bytes[i]));
        i += if code.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let parse = |text: &str| GitUrl::parse(text).map(|u| (u.identifier(), u.remote));
        let is = |text: &str, identifier: &str, remote: &str| {
            assert_eq!(parse(text), Some((identifier.to_owned(), remote.to_owned())), "{text}");
        };
        is("https://h.example/a.git#v1:sub/", "git://h.example/a.git#v1:sub", "https://h.example/a.git");
        is("git@h.example:a/b.git", "git://h.example/a/b.git", "git@h.example:a/b.git");
        is("https://u:p@h.example/a.git", "git://h.example/a.git", "https://u:p@h.example/a.git");
        is("ssh://git@h.example:22/a#:sub", "git://h.example:22/a#:sub", "ssh://git@h.example:22/a");
        is("github.com/a/b", "git://github.com/a/b", "https://github.com/a/b");
        is(
            "https://h.example/a.git?tag=v1&subdir=x",
            "git://h.example/a.git#refs/tags/v1:x",
            "https://h.example/a.git",
        );
        is("https://h.example/a.git?ref=a%2Fb", "git://h.example/a.git#a/b", "https://h.example/a.git");
        let file = "https://github.com/a/b/releases/download/v1/c.tgz";
        for text in ["https://h.example/a.tar", "a/b", "./x:y", "https://h.example/a.git?colour=red", "", file] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn what_contradicts_itself_is_told() {
        let error = |query: &str| GitUrl::read(&format!("https://h.example/a.git?{query}")).unwrap_err().to_string();
        assert_eq!(error("tag=v2#refs/heads/x"), "ref conflicts: \"refs/heads/x\" vs \"refs/tags/v2\"");
        assert_eq!(error("ref=a&ref=a"), "query \"ref\" has multiple values");
        assert_eq!(error("branch=a&tag=b"), "branch conflicts with tag");
        assert_eq!(error("ref"), "query \"ref\" has no value");
        assert_eq!(error("submodules=x"), "invalid submodules value: \"x\" (expected true or false)");
        assert_eq!(error("colour=red"), "unexpected query \"colour\"");
        let url = GitUrl::parse("https://h.example/a.git?tag=v2&submodules=0&keep-git-dir&mtime=commit#refs/tags/v2");
        let url = url.unwrap_or_default();
        let names: Vec<&str> = url.attributes.keys().map(String::as_str).collect();
        assert_eq!(
            (url.reference.as_str(), names),
            ("refs/tags/v2", vec!["git.keepgitdir", "git.mtime", "git.skipsubmodules"])
        );
    }
}
