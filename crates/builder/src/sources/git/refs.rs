//! Which commit a reference names at a remote: what `git ls-remote` says, read with BuildKit's order of preference.
//! Nothing is fetched.

use super::Error;
use super::run::{Git, REMOTE};
use super::wanted::{Wanted, is_commit};
use crate::Error as Failure;
use crate::sources;

/// What a reference names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// The object: a commit, or an annotated tag.
    pub sha: String,
    /// The annotated tag's commit.
    pub peeled: Option<String>,
    /// The full name of the reference, or the commit where nothing else is known.
    pub reference: String,
}

impl Found {
    /// A commit that is known by itself.
    pub fn commit(sha: &str, reference: &str) -> Found {
        Found { sha: sha.to_owned(), peeled: None, reference: reference.to_owned() }
    }

    /// What is checked out: with `.git` the tag belongs to it, else its commit is enough.
    pub fn object(&self, keep_git_dir: bool) -> &str {
        self.peeled.as_deref().filter(|_| !keep_git_dir).unwrap_or(&self.sha)
    }
}

/// Asks the remote.
pub async fn ask(git: &Git, wanted: &Wanted) -> Result<Found, Failure> {
    let remote = || git.remote().to_owned();
    let reference = match wanted.reference.as_str() {
        "" => {
            let said = git.call(REMOTE, &["ls-remote", "--symref", "--", git.url(), "HEAD"]).output("ask").await?;
            let none = || sources::Error::from(Error::NoDefaultBranch { remote: remote() });
            default_branch(&said).ok_or_else(none)?
        }
        reference => reference.to_owned(),
    };
    let peeled = format!("{reference}^{{}}");
    let said = git.call(REMOTE, &["ls-remote", "--", git.url(), &reference, &peeled]).output("ask").await?;
    let none = || Error::NoReference { remote: remote(), reference: reference.clone() };
    let found = choose(&said, &reference).ok_or_else(none).map_err(sources::Error::from)?;
    let matches =
        [Some(&found.sha), found.peeled.as_ref()].into_iter().flatten().any(|sha| sha.starts_with(&wanted.checksum));
    if !matches {
        let named = found.peeled.as_ref().map(|commit| format!(" (the tag of {commit})")).unwrap_or_default();
        let (expected, found) = (wanted.checksum.clone(), format!("{}{named}", found.sha));
        return Err(sources::Error::from(Error::Checksum { remote: remote(), expected, found }).into());
    }
    Ok(found)
}

fn default_branch(said: &str) -> Option<String> {
    let line = said.lines().find_map(|line| line.strip_prefix("ref: ")?.strip_suffix("\tHEAD"))?;
    line.strip_prefix("refs/heads/").filter(|name| !name.starts_with('-')).map(str::to_owned)
}

/// The one that is meant: a reference named in full, a branch, a tag.
fn choose(said: &str, reference: &str) -> Option<Found> {
    let at =
        |name: &str| said.lines().find_map(|line| line.strip_suffix(name)?.strip_suffix('\t')).filter(|s| is_commit(s));
    let named = |folder: &str| format!("{folder}{}", reference.strip_prefix(folder).unwrap_or(reference));
    let tag = named("refs/tags/");
    for name in [named("refs/"), named("refs/heads/")].into_iter().filter(|name| *name != tag) {
        if let Some(sha) = at(&name) {
            return Some(Found::commit(sha, &name));
        }
    }
    let peeled = at(&format!("{tag}^{{}}")).map(str::to_owned);
    at(&tag).map(|sha| Found { sha: sha.to_owned(), peeled, reference: tag.clone() })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_one_that_is_meant() {
        let sha = |c: char| c.to_string().repeat(40);
        let (a, b, c, d) = (sha('a'), sha('b'), sha('c'), sha('d'));
        let said = format!(
            "{a}\trefs/heads/v1\n{b}\trefs/tags/v1\n{c}\trefs/tags/v1^{{}}\n{d}\trefs/pull/1/head\n{d}\trefs/heads/x/v1\n"
        );
        let found = |name: &str| choose(&said, name).map(|f| (f.sha, f.peeled, f.reference));
        assert_eq!(found("v1").unwrap(), (a.clone(), None, "refs/heads/v1".to_owned()));
        assert_eq!(found("refs/heads/v1").unwrap().0, a);
        assert_eq!(found("heads/v1").unwrap().0, a);
        assert_eq!(found("refs/tags/v1").unwrap(), (b, Some(c), "refs/tags/v1".to_owned()));
        assert_eq!(found("pull/1/head").unwrap().2, "refs/pull/1/head");
        assert_eq!(found("tags/v1").unwrap().2, "refs/tags/v1");
        assert_eq!(found("v2"), None);
        let said = format!("ref: refs/heads/trunk\tHEAD\n{a}\tHEAD\n");
        assert_eq!(default_branch(&said).unwrap(), "trunk");
    }
}
