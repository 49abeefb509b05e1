//! What an operation wants of a repository: its identifier and attributes, read with BuildKit's rules.
//! What larder can't honour is refused: a signature that nobody checks must not look checked.

use graph::{Kind, Vertex};

use super::Error;
use super::address::{Address, redact};
use super::refs::Found;
use crate::sources;

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// What git is given.
    pub remote: String,
    /// Its host, with a port if there is one.
    pub host: String,
    /// Branch, tag or commit; empty is the default branch.
    pub reference: String,
    /// The folder that becomes the tree, empty for all.
    pub folder: String,
    /// The commit that it must be, or its beginning.
    pub checksum: String,
    /// `.git` stays.
    pub keep_git_dir: bool,
    /// Submodules are left out.
    pub skip_submodules: bool,
    /// `git.mtime`.
    pub mtime: String,
    /// The checksum is the commit, whatever the reference is now.
    pub by_commit: bool,
    /// Id of the secret with a token.
    pub token_secret: String,
    /// Id of the secret with a header.
    pub header_secret: String,
    /// Id of the client's SSH agent.
    pub ssh: String,
    /// Host keys to trust, as in `known_hosts`.
    pub known_hosts: String,
}

/// What a remote is asked: where, for which reference, and what it must be.
pub type Asked = (String, String, String);

impl Wanted {
    /// What the remote is asked for this.
    pub fn asked(&self) -> Asked {
        (self.remote.clone(), self.reference.clone(), self.checksum.clone())
    }

    fn at(address: Address) -> Wanted {
        let Address { host, remote, reference, folder } = address;
        Wanted { remote, host, reference, folder, ..Wanted::default() }
    }

    /// Reads a vertex.
    pub fn read(vertex: &Vertex) -> Result<Wanted, sources::Error> {
        let Some(Kind::Source(op)) = vertex.kind() else {
            return Err(sources::Error::UnknownScheme { identifier: vertex.name() });
        };
        let bad = |name: &str, value: &str, reason: &str| sources::Error::BadAttribute {
            identifier: op.identifier.clone(),
            name: name.to_owned(),
            value: redact(value),
            reason: reason.to_owned(),
        };
        let address = op.identifier.strip_prefix("git://").unwrap_or(&op.identifier);
        let address = Address::parse(address).map_err(|reason| bad("identifier", address, reason))?;
        let mut wanted = Wanted::at(address);
        for (name, value) in &op.attrs {
            let on = value == "true";
            match name.as_str() {
                "git.fullurl" => {
                    let full = Address::parse(value).map_err(|reason| bad(name, value, reason))?;
                    (wanted.remote, wanted.host) = (full.remote, full.host);
                }
                "git.keepgitdir" => wanted.keep_git_dir = on,
                "git.skipsubmodules" => wanted.skip_submodules = on,
                "git.fetchbycommit" => wanted.by_commit = on,
                "git.authtokensecret" => wanted.token_secret.clone_from(value),
                "git.authheadersecret" => wanted.header_secret.clone_from(value),
                "git.mountsshsock" => wanted.ssh.clone_from(value),
                "git.knownsshhosts" => wanted.known_hosts.clone_from(value),
                "git.checksum" if !value.is_empty() && !value.bytes().all(|b| b.is_ascii_hexdigit()) => {
                    return Err(bad(name, value, "invalid checksum, expected hex commit hash"));
                }
                "git.checksum" => wanted.checksum = value.to_ascii_lowercase(),
                "git.mtime" if !matches!(value.as_str(), "" | "checkout" | "commit") => {
                    return Err(bad(name, value, "expected checkout or commit"));
                }
                "git.mtime" => wanted.mtime.clone_from(value),
                other if other.starts_with("git.") => return Err(bad(name, value, "larder does not know it")),
                _ => {}
            }
        }
        check_name(&wanted.reference)?;
        Ok(wanted)
    }

    /// What needs no question: a whole commit, or one that the client has looked up.
    pub fn given(&self) -> Result<Option<Found>, sources::Error> {
        let differs = |found: &str| Error::Checksum {
            remote: redact(&self.remote),
            expected: self.checksum.clone(),
            found: found.to_owned(),
        };
        if is_commit(&self.reference) {
            if !self.reference.starts_with(&self.checksum) {
                return Err(differs(&self.reference).into());
            }
            return Ok(Some(Found::commit(&self.reference, &self.reference)));
        }
        if !self.by_commit {
            return Ok(None);
        }
        if !is_commit(&self.checksum) {
            return Err(sources::Error::BadAttribute {
                identifier: redact(&self.remote),
                name: "git.fetchbycommit".to_owned(),
                value: "true".to_owned(),
                reason: "it needs a whole commit in git.checksum".to_owned(),
            });
        }
        let reference = match self.reference.as_str() {
            "" => self.checksum.clone(),
            full if full.starts_with("refs/") => full.to_owned(),
            branch => format!("refs/heads/{branch}"),
        };
        Ok(Some(Found::commit(&self.checksum, &reference)))
    }
}

/// Whether it is a whole commit's name.
pub fn is_commit(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Refuses what git would take for an option, a pattern or two references.
fn check_name(reference: &str) -> Result<(), sources::Error> {
    let odd = |c: char| c.is_control() || " :?*[\\~^".contains(c);
    if reference.starts_with('-') || reference.contains(odd) || reference.contains("..") || reference.contains("@{") {
        return Err(Error::BadReference { reference: reference.to_owned() }.into());
    }
    Ok(())
}
