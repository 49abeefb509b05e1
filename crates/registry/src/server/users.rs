//! Who may do what: users and their passwords (an `htpasswd` file with bcrypt), and rules that say what each may do where.
//! Without rules every user may do everything, and nobody else anything.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::name::Repository;

/// What can be done with a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Action {
    /// Read it.
    Pull,
    /// Write to it.
    Push,
    /// Delete from it.
    Delete,
}

impl Action {
    /// Its word in scopes of tokens.
    pub fn word(self) -> &'static str {
        match self {
            Action::Pull => "pull",
            Action::Push => "push",
            Action::Delete => "delete",
        }
    }

    /// Reads [`Action::word`].
    pub fn parse(word: &str) -> Option<Action> {
        [Action::Pull, Action::Push, Action::Delete].into_iter().find(|action| action.word() == word)
    }
}

/// Who asks: a user, or `None` for anybody.
pub type Who = Option<String>;

/// A rule: these users may do this with these repositories.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// A user, `*` for every user, or `anonymous` for anybody.
    pub user: String,
    /// Repositories: `*` stands for any text.
    pub repositories: String,
    /// What they may do.
    pub actions: Vec<Action>,
}

/// Why users can't be read.
#[derive(Debug, thiserror::Error)]
#[error("can't read users from {}: {reason}", path.display())]
pub struct UsersError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub reason: String,
}

/// The users of a registry.
#[derive(Debug, Default)]
pub struct Users {
    hashes: HashMap<String, String>,
    rules: Vec<Rule>,
    /// Passwords that were right, as digests with a key of this process: bcrypt is slow on purpose.
    known: Mutex<HashMap<String, [u8; 32]>>,
}

impl Users {
    /// Reads an `htpasswd` file: `user:$2y$…` a line.
    pub fn read(path: &Path, rules: Vec<Rule>) -> Result<Users, UsersError> {
        let bad = |reason: String| UsersError { path: path.to_owned(), reason };
        let text = std::fs::read_to_string(path).map_err(|error| bad(error.to_string()))?;
        let mut hashes = HashMap::new();
        for (number, line) in (1..).zip(text.lines()).filter(|(_, l)| !l.trim().is_empty() && !l.starts_with('#')) {
            let (user, hash) = line.split_once(':').ok_or_else(|| bad(format!("line {number} is not USER:HASH")))?;
            if !["$2a$", "$2b$", "$2y$"].iter().any(|kind| hash.starts_with(kind)) {
                return Err(bad(format!("the password of `{user}` is not hashed with bcrypt: use `htpasswd -B`")));
            }
            hashes.insert(user.to_owned(), hash.trim().to_owned());
        }
        if hashes.is_empty() {
            return Err(bad("it has no user: `htpasswd -B FILE USER` adds one".to_owned()));
        }
        Ok(Users { hashes, rules, known: Mutex::default() })
    }

    /// Whether the password is that of the user. Slow the first time (bcrypt); blocks.
    pub fn check(&self, user: &str, password: &str) -> bool {
        let Some(hash) = self.hashes.get(user) else { return false };
        let digest = *oci::Digest::of(format!("{hash}\n{password}").as_bytes()).bytes();
        if self.known.lock().unwrap_or_else(PoisonError::into_inner).get(user) == Some(&digest) {
            return true;
        }
        let right = bcrypt::verify(password, hash).unwrap_or(false);
        if right {
            self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(user.to_owned(), digest);
        }
        right
    }

    /// Whether there is such a user.
    pub fn has(&self, user: &str) -> bool {
        self.hashes.contains_key(user)
    }

    /// Whether somebody may do something with a repository.
    pub fn may(&self, who: &Who, name: &Repository, action: Action) -> bool {
        if self.rules.is_empty() {
            return who.is_some();
        }
        self.rules.iter().any(|rule| {
            let meant = match who {
                None => rule.user == "anonymous",
                Some(user) => rule.user == *user || rule.user == "*" || rule.user == "anonymous",
            };
            meant && rule.actions.contains(&action) && matches(&rule.repositories, name.as_str())
        })
    }
}

/// Whether text fits a pattern in which `*` stands for any text. Takes time in proportion to both lengths' product at most.
pub fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    // Where to go on when what follows the last star does not fit: one byte later in the text.
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p + 1, t));
                p += 1;
            }
            Some(byte) if *byte == text[t] => (p, t) = (p + 1, t + 1),
            _ => match star {
                None => return false,
                Some((after, from)) => {
                    star = Some((after, from + 1));
                    (p, t) = (after, from + 1);
                }
            },
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, text, fits) in [
            ("*", "", true),
            ("*", "a/b", true),
            ("team/*", "team/a/b", true),
            ("team/*", "teams/a", false),
            ("*-rc*", "v1-rc2", true),
            ("v*.*", "v1", false),
            ("a*b*c", "axxbxxbxc", true),
            ("", "a", false),
            ("v1", "v1", true),
        ] {
            assert_eq!(matches(pattern, text), fits, "{pattern} {text}");
        }
    }

    #[test]
    fn rules_say_who_may_what() {
        let rule = |user: &str, repositories: &str, actions: &[Action]| Rule {
            user: user.to_owned(),
            repositories: repositories.to_owned(),
            actions: actions.to_vec(),
        };
        let rules = vec![
            rule("anonymous", "public/*", &[Action::Pull]),
            rule("*", "*", &[Action::Pull]),
            rule("ci", "team/*", &[Action::Push]),
        ];
        let users = Users { rules, ..Users::default() };
        let name = |text: &str| Repository::parse(text).unwrap();
        let (ci, other) = (Some("ci".to_owned()), Some("other".to_owned()));
        for (who, repository, action, may) in [
            (&None, "public/a", Action::Pull, true),
            (&None, "team/a", Action::Pull, false),
            (&other, "team/a", Action::Pull, true),
            (&other, "team/a", Action::Push, false),
            (&ci, "team/a", Action::Push, true),
            (&ci, "public/a", Action::Push, false),
            (&ci, "team/a", Action::Delete, false),
        ] {
            assert_eq!(users.may(who, &name(repository), action), may, "{who:?} {repository} {action:?}");
        }
        assert!(Users::default().may(&ci, &name("a"), Action::Delete));
        assert!(!Users::default().may(&None, &name("a"), Action::Pull));
    }

    #[test]
    fn htpasswd_with_bcrypt_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("htpasswd");
        let hash = bcrypt::hash("secret", 4).unwrap();
        std::fs::write(&path, format!("# users\nme:{hash}\n")).unwrap();
        let users = Users::read(&path, Vec::new()).unwrap();
        for _ in 0..2 {
            assert!(users.check("me", "secret") && !users.check("me", "Secret") && !users.check("you", "secret"));
        }
        std::fs::write(&path, "me:$apr1$x$y\n").unwrap();
        assert!(Users::read(&path, Vec::new()).unwrap_err().to_string().contains("htpasswd -B"));
    }
}
