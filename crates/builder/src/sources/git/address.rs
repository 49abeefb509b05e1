//! Addresses of repositories as a graph writes them: URLs and `user@host:path`, with a fragment `#ref:folder`.
//! Text only: nothing here asks a remote.

/// An address, taken apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Address {
    /// With its port.
    pub host: String,
    /// What git is given: no query, no fragment.
    pub remote: String,
    /// Before the colon of the fragment.
    pub reference: String,
    /// After it: without `..`, and without slashes around it.
    pub folder: String,
}

/// Whether `text` names one of the ways to a repository that a graph may use. Files of the builder's machine are none.
pub fn is_transport(text: &str) -> bool {
    match protocol(text) {
        Some(scheme) => matches!(scheme.to_ascii_lowercase().as_str(), "http" | "https" | "ssh" | "git"),
        None => scp_host(text).is_some(),
    }
}

/// The address without a password, for people.
pub fn redact(address: &str) -> String {
    let Some((scheme, rest)) = address.split_once("://") else { return address.to_owned() };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    match rest[..end].rsplit_once('@').and_then(|(user, host)| Some((user.split_once(':')?.0, host))) {
        Some((user, host)) => format!("{scheme}://{user}:xxxxx@{host}{}", &rest[end..]),
        None => address.to_owned(),
    }
}

fn protocol(text: &str) -> Option<&str> {
    let (scheme, _) = text.split_once("://")?;
    (!scheme.is_empty() && scheme.bytes().all(|b| b.is_ascii_alphanumeric())).then_some(scheme)
}

/// The host of `user@host:path`.
fn scp_host(text: &str) -> Option<&str> {
    let (user, rest) = text.split_once('@')?;
    let (host, _) = rest.split_once(':')?;
    let plain = |s: &str, more: &str| {
        !s.is_empty() && !s.starts_with('-') && s.chars().all(|c| c.is_ascii_alphanumeric() || more.contains(c))
    };
    (plain(user, "-_") && plain(host, "-.")).then_some(host)
}

impl Address {
    /// Takes an address apart; without a protocol it is HTTPS.
    pub fn parse(text: &str) -> Result<Address, &'static str> {
        let text = match is_transport(text) {
            true => text.to_owned(),
            false if text.contains("://") => {
                return Err("expected http, https, ssh or git, and no file of the builder");
            }
            false => format!("https://{text}"),
        };
        let (remote, fragment) = text.split_once('#').unwrap_or((&text, ""));
        let remote = remote.split('?').next().unwrap_or(remote);
        let (host, fragment) = match protocol(remote) {
            Some(scheme) => {
                let authority = remote[scheme.len() + 3..].split('/').next().unwrap_or_default();
                let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
                (host, decode(fragment).ok_or("a `%` is not followed by two hex digits")?)
            }
            None => (scp_host(remote).ok_or("expected user@host:path")?, fragment.to_owned()),
        };
        if host.is_empty() || host.starts_with('-') {
            return Err("a host is missing");
        }
        let (reference, folder) = fragment.split_once(':').unwrap_or((&fragment, ""));
        Ok(Address {
            host: host.to_owned(),
            remote: remote.to_owned(),
            reference: reference.to_owned(),
            folder: graph::pattern::clean(&format!("/{folder}")).trim_start_matches('/').to_owned(),
        })
    }
}

fn decode(text: &str) -> Option<String> {
    let mut bytes = text.bytes();
    let mut out = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        let digit = |b: Option<u8>| (b? as char).to_digit(16);
        out.push(if byte == b'%' { (digit(bytes.next())? * 16 + digit(bytes.next())?) as u8 } else { byte });
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let parts = |text: &str| Address::parse(text).map(|a| (a.host, a.remote, a.reference, a.folder));
        for (text, host, remote, reference, folder) in [
            ("e.com/a.git#main:sub/dir/", "e.com", "https://e.com/a.git", "main", "sub/dir"),
            ("https://u:p@e.com:8/a#:../../etc", "e.com:8", "https://u:p@e.com:8/a", "", "etc"),
            ("git@e.com:o/a.git#v1:x", "e.com", "git@e.com:o/a.git", "v1", "x"),
            ("git://e.com/a?x=y#v%31", "e.com", "git://e.com/a", "v1", ""),
        ] {
            let expected = [host, remote, reference, folder].map(str::to_owned);
            assert_eq!(parts(text), Ok(expected.into()), "{text}");
        }
        for text in ["file:///a", "ext::sh", "https://", "ssh://-oProxyCommand=x/a", "e.com/a#%zz"] {
            assert!(parts(text).is_err() || text == "ext::sh", "{text}");
        }
    }

    #[test]
    fn passwords_are_not_shown() {
        assert_eq!(redact("https://u:p@h/x"), "https://u:xxxxx@h/x");
        assert_eq!(redact("https://u@h/x@y"), "https://u@h/x@y");
        assert_eq!(redact("git@h:x"), "git@h:x");
    }
}
