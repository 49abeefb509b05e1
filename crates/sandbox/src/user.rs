//! Who a user string means inside a root: `/etc/passwd` and `/etc/group` read by the rules of moby/sys/user, as BuildKit
//! and runc use them. Pure text: the caller reads the files, in whatever view it has of the root.

/// A resolved user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ids {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary groups, with `gid` first.
    pub groups: Vec<u32>,
}

/// Why a user string means nobody.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The user isn't in `/etc/passwd` and isn't a number.
    #[error("unable to find user {0}: no matching entries in passwd file")]
    NoUser(String),
    /// The group isn't in `/etc/group` and isn't a number.
    #[error("unable to find group {0}: no matching entries in group file")]
    NoGroup(String),
    /// A number outside 0..=2147483647.
    #[error("uids and gids must be in range 0-2147483647, not {0}")]
    Range(String),
}

/// One line of `/etc/passwd`; broken numbers are 0, missing fields empty.
struct Account<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

fn accounts(passwd: &str) -> impl Iterator<Item = Account<'_>> {
    passwd.lines().map(str::trim).filter(|l| !l.is_empty()).map(|line| {
        let mut f = line.split(':');
        let name = f.next().unwrap_or_default();
        let number = |s: Option<&str>| s.and_then(|s| s.parse().ok()).unwrap_or(0);
        let _password = f.next();
        let uid = number(f.next());
        let gid = number(f.next());
        let _comment = f.next();
        Account { name, uid, gid, home: f.next().unwrap_or_default() }
    })
}

/// One line of `/etc/group`.
struct Group<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

fn groups(group: &str) -> impl Iterator<Item = Group<'_>> {
    group.lines().map(str::trim).filter(|l| !l.is_empty()).map(|line| {
        let mut f = line.split(':');
        let name = f.next().unwrap_or_default();
        let _password = f.next();
        let gid = f.next().and_then(|s| s.parse().ok()).unwrap_or(0);
        Group { name, gid, members: f.next().unwrap_or_default() }
    })
}

/// `Some` for a number in range, `None` for a name, an error for a number out of range.
fn numeric(text: &str) -> Result<Option<u32>, Error> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Ok(None);
    }
    match text.strip_prefix('+').unwrap_or(text).parse::<u32>() {
        Ok(n) if n <= i32::MAX as u32 => Ok(Some(n)),
        _ => Err(Error::Range(text.to_string())),
    }
}

/// `uid:gid` with both given as numbers (or `root`): no file is needed, and there are no supplementary groups.
pub fn literal(text: &str) -> Option<Ids> {
    let number = |s: &str| if s == "root" { Some(0) } else { s.parse::<u32>().ok() };
    let (user, group) = text.split_once(':')?;
    let (uid, gid) = (number(user)?, number(group)?);
    Some(Ids { uid, gid, groups: vec![gid] })
}

/// Resolves `text` with the content of the root's `/etc/passwd` and `/etc/group` (`None`: no such file).
pub fn resolve(text: &str, passwd: Option<&str>, group: Option<&str>) -> Result<Ids, Error> {
    if let Some(ids) = literal(text) {
        return Ok(ids);
    }
    let is_default = text.is_empty();
    let found = lookup(if is_default { "0" } else { text }, passwd, group);
    match found {
        Err(_) if is_default => Ok(Ids { uid: 0, gid: 0, groups: vec![0] }),
        other => other,
    }
}

fn lookup(text: &str, passwd: Option<&str>, group: Option<&str>) -> Result<Ids, Error> {
    let (user_text, group_text) = text.split_once(':').unwrap_or((text, ""));
    let group_text = group_text.split(':').next().unwrap_or_default();
    let (user_number, group_number) = (numeric(user_text)?, numeric(group_text)?);

    let account = accounts(passwd.unwrap_or_default()).find(|a| match (user_text, user_number) {
        ("", _) => a.uid == 0,
        (_, Some(n)) => a.uid == n,
        (name, None) => a.name == name,
    });
    let (uid, mut gid) = match (&account, user_text, user_number) {
        (Some(a), ..) => (a.uid, a.gid),
        (None, "", _) => (0, 0),
        (None, _, Some(n)) => (n, 0),
        (None, name, None) => return Err(Error::NoUser(name.to_string())),
    };

    let mut extra = Vec::new();
    if !group_text.is_empty() {
        let named = groups(group.unwrap_or_default()).find(|g| match group_number {
            Some(n) => g.gid == n,
            None => g.name == group_text,
        });
        gid = match (named, group_number) {
            (Some(g), _) => g.gid,
            (None, Some(n)) => n,
            (None, None) => return Err(Error::NoGroup(group_text.to_string())),
        };
    } else if let Some(account) = account {
        let member = |g: &Group<'_>| g.members.split(',').any(|m| m == account.name);
        extra = groups(group.unwrap_or_default()).filter(member).map(|g| g.gid).collect();
    }
    if !extra.contains(&gid) {
        extra.insert(0, gid);
    }
    Ok(Ids { uid, gid, groups: extra })
}

/// A user's and his group's number, by exactly that name; `None` when there is no such line.
pub fn named(name: &str, passwd: Option<&str>) -> Option<(u32, u32)> {
    accounts(passwd.unwrap_or_default()).find(|account| account.name == name).map(|account| (account.uid, account.gid))
}

/// A group's number, likewise.
pub fn named_group(name: &str, group: Option<&str>) -> Option<u32> {
    groups(group.unwrap_or_default()).find(|group| group.name == name).map(|group| group.gid)
}

/// The home directory of `uid`: what `HOME` becomes when the environment doesn't name it. `/` for an unknown user.
pub fn home(uid: u32, passwd: Option<&str>) -> &str {
    let home = accounts(passwd.unwrap_or_default()).find(|a| a.uid == uid).map(|a| a.home);
    home.filter(|h| !h.is_empty()).unwrap_or("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str =
        "root:x:0:0:root:/root:/bin/sh\n\n daemon:x:1:1::/usr/sbin:\napp:x:1000:1001:App:/home/app:/bin/sh\nodd:x:zz\n";
    const GROUP: &str = "root:x:0:\ndaemon:x:1:app\nweb:x:33:app,odd\napp:x:1001:\n";

    fn ids(text: &str) -> Result<Ids, Error> {
        resolve(text, Some(PASSWD), Some(GROUP))
    }
    fn want(uid: u32, gid: u32, groups: &[u32]) -> Result<Ids, Error> {
        Ok(Ids { uid, gid, groups: groups.to_vec() })
    }

    #[test]
    fn names_numbers_and_mixtures() {
        assert_eq!(ids(""), want(0, 0, &[0]));
        assert_eq!(ids("root"), want(0, 0, &[0]));
        assert_eq!(ids("app"), want(1000, 1001, &[1001, 1, 33]));
        assert_eq!(ids("1000"), want(1000, 1001, &[1001, 1, 33]), "a known number gets its groups");
        assert_eq!(ids("1000:1001"), want(1000, 1001, &[1001]), "both numbers: no supplementary groups");
        assert_eq!(ids("app:web"), want(1000, 33, &[33]));
        assert_eq!(ids("app:77"), want(1000, 77, &[77]));
        assert_eq!(ids("4242"), want(4242, 0, &[0]));
        assert_eq!(ids("4242:web"), want(4242, 33, &[33]));
        assert_eq!(ids(":web"), want(0, 33, &[33]));
        assert_eq!(ids("root:root"), want(0, 0, &[0]));
        assert_eq!(ids("odd"), want(0, 0, &[0, 33]), "broken numbers are 0, as moby/sys/user reads them");
    }

    #[test]
    fn owners_by_name() {
        assert_eq!(
            [named("app", Some(PASSWD)), named("1000", Some(PASSWD)), named("app", None)],
            [Some((1000, 1001)), None, None]
        );
        assert_eq!([named_group("web", Some(GROUP)), named_group("ghosts", Some(GROUP))], [Some(33), None]);
    }

    #[test]
    fn nobody_is_an_error() {
        assert_eq!(ids("ghost"), Err(Error::NoUser("ghost".into())));
        assert_eq!(ids("app:ghosts"), Err(Error::NoGroup("ghosts".into())));
        assert_eq!(ids("2147483648"), Err(Error::Range("2147483648".into())));
        assert_eq!(ids("-1"), Err(Error::Range("-1".into())));
        assert_eq!(resolve("app", None, None), Err(Error::NoUser("app".into())));
        assert_eq!(resolve("", None, None), want(0, 0, &[0]));
        assert_eq!(resolve("7", None, None), want(7, 0, &[0]));
    }

    #[test]
    fn homes() {
        assert_eq!(home(1000, Some(PASSWD)), "/home/app");
        assert_eq!(home(0, Some(PASSWD)), "/root");
        assert_eq!(home(5, Some(PASSWD)), "/");
        assert_eq!(home(0, None), "/");
    }
}
