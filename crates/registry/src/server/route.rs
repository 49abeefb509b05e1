//! From a request's address to what it asks for. Pure: nothing is looked up here.
//! A repository's name has slashes itself, so an address is read from its end (distribution-spec, "Endpoints").

use super::digest::ContentDigest;
use super::name::{Repository, Target, parse_digest};
use super::refusal::Refusal;

/// What an address names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// `/v2/`: whether this is a registry.
    Support,
    /// `/token`: tokens for users.
    Token,
    /// `/v2/_catalog`: all repositories.
    Catalog,
    /// `/v2/<name>/tags/list`.
    Tags(Repository),
    /// `/v2/<name>/blobs/<digest>`.
    Blob(Repository, ContentDigest),
    /// `/v2/<name>/blobs/uploads/`: a new upload.
    Uploads(Repository),
    /// `/v2/<name>/blobs/uploads/<id>`: one that goes on.
    Upload(Repository, String),
    /// `/v2/<name>/manifests/<tag-or-digest>`.
    Manifest(Repository, Target),
    /// `/v2/<name>/_larder/cache/filter/<tag-or-digest>`: an extension.
    CacheFilter(Repository, Target),
    /// `/v2/<name>/referrers/<digest>`.
    Referrers(Repository, ContentDigest),
}

impl Route {
    /// Reads the path of a request.
    pub fn parse(path: &str) -> Result<Route, Refusal> {
        let path = decode(path, false).ok_or_else(|| Refusal::no_such_page("the address can't be read"))?;
        let unknown = || Refusal::no_such_page(format!("there is nothing at {path}"));
        match path.as_str() {
            "/v2" | "/v2/" => return Ok(Route::Support),
            "/token" => return Ok(Route::Token),
            "/v2/_catalog" => return Ok(Route::Catalog),
            _ => {}
        }
        let rest = path.strip_prefix("/v2/").ok_or_else(unknown)?;
        if let Some(name) = rest.strip_suffix("/tags/list") {
            return Repository::parse(name).map(Route::Tags);
        }
        if let Some(name) = rest.strip_suffix("/blobs/uploads").or_else(|| rest.strip_suffix("/blobs/uploads/")) {
            return Repository::parse(name).map(Route::Uploads);
        }
        let (head, last) = rest.rsplit_once('/').ok_or_else(unknown)?;
        if let Some(name) = head.strip_suffix("/blobs/uploads") {
            return Ok(Route::Upload(Repository::parse(name)?, last.to_owned()));
        }
        if let Some(name) = head.strip_suffix("/blobs") {
            return Ok(Route::Blob(Repository::parse(name)?, parse_digest(last)?));
        }
        if let Some(name) = head.strip_suffix("/manifests") {
            return Ok(Route::Manifest(Repository::parse(name)?, Target::parse(last)?));
        }
        if let Some(name) = head.strip_suffix("/_larder/cache/filter") {
            return Ok(Route::CacheFilter(Repository::parse(name)?, Target::parse(last)?));
        }
        if let Some(name) = head.strip_suffix("/referrers") {
            return Ok(Route::Referrers(Repository::parse(name)?, parse_digest(last)?));
        }
        Err(unknown())
    }

    /// The repository that it is about.
    pub fn repository(&self) -> Option<&Repository> {
        match self {
            Route::Support | Route::Token | Route::Catalog => None,
            Route::Tags(name)
            | Route::Blob(name, _)
            | Route::Uploads(name)
            | Route::Upload(name, _)
            | Route::Manifest(name, _)
            | Route::CacheFilter(name, _)
            | Route::Referrers(name, _) => Some(name),
        }
    }
}

/// The values of a query, in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Reads a query. `spaces`: whether `+` is a space, as forms write it; elsewhere media types have a plus.
    pub fn parse(text: &str, spaces: bool) -> Query {
        let pairs = text.split('&').filter(|pair| !pair.is_empty()).filter_map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Some((decode(name, spaces)?, decode(value, spaces)?))
        });
        Query(pairs.collect())
    }

    /// The first value of a name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// All values of a name.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// A number, if there is one.
    pub fn number(&self, name: &str) -> Result<Option<usize>, Refusal> {
        let wrong = |text: &str| Refusal::query_invalid(format!("{name}={text} is not a number"));
        self.get(name).map(|text| text.parse().map_err(|_| wrong(text))).transpose()
    }
}

/// Undoes percent-encoding; `None` for what is broken.
fn decode(text: &str, spaces: bool) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let mut digit = || (rest.next()? as char).to_digit(16);
                u8::try_from(digit()? * 16 + digit()?).ok()?
            }
            b'+' if spaces => b' ',
            other => other,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::digest::Algorithm;

    #[test]
    fn addresses_are_read_from_their_end() {
        let name = |n: &str| Repository::parse(n).unwrap();
        let digest = ContentDigest::of(Algorithm::Sha256, b"");
        let cases = [
            ("/v2/".to_owned(), Route::Support),
            ("/v2/a/b/tags/list".to_owned(), Route::Tags(name("a/b"))),
            (format!("/v2/a/blobs/{digest}"), Route::Blob(name("a"), digest.clone())),
            (format!("/v2/a/blobs/{}", digest.to_string().replace(':', "%3A")), Route::Blob(name("a"), digest.clone())),
            ("/v2/a/blobs/uploads/".to_owned(), Route::Uploads(name("a"))),
            ("/v2/a/blobs/uploads/x-1".to_owned(), Route::Upload(name("a"), "x-1".into())),
            (
                "/v2/blobs/uploads/manifests/v1".to_owned(),
                Route::Manifest(name("blobs/uploads"), Target::parse("v1").unwrap()),
            ),
            (format!("/v2/a/referrers/{digest}"), Route::Referrers(name("a"), digest.clone())),
        ];
        for (path, route) in cases {
            assert_eq!(Route::parse(&path), Ok(route), "{path}");
        }
        for (path, code) in [
            ("/", "UNSUPPORTED"),
            ("/v2/a", "UNSUPPORTED"),
            ("/v2/A/tags/list", "NAME_INVALID"),
            ("/v2/../tags/list", "NAME_INVALID"),
            ("/v2/a%2f..%2f..%2fetc/tags/list", "NAME_INVALID"),
            ("/v2/a/blobs/sha256:12", "DIGEST_INVALID"),
            ("/v2/a/referrers/x", "DIGEST_INVALID"),
            ("/v2/a/manifests/.x", "MANIFEST_INVALID"),
        ] {
            assert_eq!(Route::parse(path).unwrap_err().code, code, "{path}");
        }
    }

    #[test]
    fn queries_keep_the_plus_of_a_media_type() {
        let query = Query::parse("artifactType=application/x+json&n=3&mount=sha256%3Aab", false);
        assert_eq!(query.get("artifactType"), Some("application/x+json"));
        assert_eq!(query.number("n"), Ok(Some(3)));
        assert_eq!(query.get("mount"), Some("sha256:ab"));
        assert_eq!(Query::parse("scope=a+b", true).get("scope"), Some("a b"));
        assert!(Query::parse("n=-1", false).number("n").is_err());
    }
}
