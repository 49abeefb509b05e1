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
    /// Further attributes of the source, from the query: `git.checksum`, `git.keepgitdir`, `git.skipsubmodules`.
    pub attributes: BTreeMap<String, String>,
}

impl GitUrl {
    /// Reads an address with an optional `#REF:SUBDIR` or `?ref=…&subdir=…`; `None` for what is none.
    pub fn parse(text: &str) -> Option<GitUrl> {
        let (base, fragment) = text.split_once('#').unwrap_or((text, ""));
        let (base, query) = base.split_once('?').unwrap_or((base, ""));
        let base = if base.starts_with("github.com/") { format!("https://{base}") } else { base.to_owned() };
        let (scheme, rest) = match base.split_once("://") {
            Some((scheme @ ("git" | "ssh"), rest)) => (scheme, rest),
            Some((scheme @ ("http" | "https"), rest)) if rest.ends_with(".git") || base.contains("//github.com/") => {
                (scheme, rest)
            }
            Some(_) => return None,
            // user@host:path
            None => ("scp", base.split_once(':').filter(|(host, _)| host.contains('@') && !host.contains('/'))?.0),
        };
        let place = if scheme == "scp" {
            let (host, path) = base.split_once(':')?;
            format!("{}/{}", host.rsplit('@').next()?, path.trim_start_matches('/'))
        } else {
            rest.rsplit_once('@').map_or(rest, |(_, host)| host).to_owned()
        };
        let (reference, subdir) = fragment.split_once(':').unwrap_or((fragment, ""));
        let mut url = GitUrl {
            remote: base,
            place,
            reference: reference.to_owned(),
            subdir: crate::pattern::clean(subdir.trim_start_matches('/')),
            attributes: BTreeMap::new(),
        };
        if matches!(url.subdir.as_str(), "." | "/") {
            url.subdir.clear();
        }
        url.query(query).then_some(url)
    }

    fn query(&mut self, query: &str) -> bool {
        for (key, value) in query.split('&').filter(|p| !p.is_empty()).map(|p| p.split_once('=').unwrap_or((p, ""))) {
            let on = matches!(value, "" | "1" | "true");
            match key {
                "ref" => value.clone_into(&mut self.reference),
                "branch" => self.reference = format!("refs/heads/{value}"),
                "tag" => self.reference = format!("refs/tags/{value}"),
                "subdir" => self.subdir = crate::pattern::clean(value.trim_start_matches('/')),
                "checksum" | "commit" => drop(self.attributes.insert("git.checksum".to_owned(), value.to_owned())),
                "keep-git-dir" if on => drop(self.attributes.insert("git.keepgitdir".to_owned(), "true".to_owned())),
                "submodules" if value == "false" || value == "0" => {
                    self.attributes.insert("git.skipsubmodules".to_owned(), "true".to_owned());
                }
                "keep-git-dir" | "submodules" => {}
                _ => return false,
            }
        }
        true
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
        for text in ["https://h.example/a.tar", "a/b", "./x:y", "https://h.example/a.git?colour=red", ""] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
