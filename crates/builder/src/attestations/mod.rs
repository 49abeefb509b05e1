//! What is said about a result beside it, as in-toto statements: how it was built (provenance), what is in it (SBOM).
//! It reads what a build really used and decides nothing about the build; no value of a secret ever comes here.

pub mod asked;
mod attest;
pub mod capture;
pub mod making;
mod operations;
pub mod predicate;
pub(crate) mod purl;
pub mod scan;
pub mod statement;
pub mod supplement;
pub mod wanted;

pub use asked::{Asked, Origin};
pub(crate) use attest::timeless;
pub use capture::{Capture, Pin, Pins};
pub use making::{Making, Read};
pub use statement::{Attestation, Given, Said, Subject};
pub use wanted::Wanted;

/// Credentials in a URL, hidden as BuildKit does.
pub(crate) fn redact(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let Some((user, host)) = rest[..end].rsplit_once('@') else { return url.to_owned() };
    let hidden = if user.contains(':') { "xxxxx:xxxxx" } else { "xxxxx" };
    format!("{scheme}://{hidden}@{host}{}", &rest[end..])
}

#[cfg(test)]
mod tests {
    #[test]
    fn credentials_are_hidden() {
        let cases = [
            ("https://u:p@h/x.git#a@b", "https://xxxxx:xxxxx@h/x.git#a@b"),
            ("https://token@h/x", "https://xxxxx@h/x"),
            ("https://h/x@y", "https://h/x@y"),
            ("git@h:x", "git@h:x"),
            ("/some/where", "/some/where"),
        ];
        for (url, hidden) in cases {
            assert_eq!(super::redact(url), hidden);
        }
    }
}
