//! Signature Version 4 of AWS, with the key in the header `Authorization` ("Authenticating Requests: Using the
//! Authorization Header", Amazon S3 API reference). Pure: the time is an argument, and nothing is sent.

use std::fmt::Write;

use ring::hmac;

/// Who signs.
#[derive(Clone, PartialEq, Eq)]
pub struct Keys {
    /// Access key id.
    pub id: String,
    /// Secret access key.
    pub secret: String,
    /// Session token of keys that end.
    pub token: Option<String>,
    /// When they end, in seconds since 1970.
    pub until: Option<i64>,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(to, "Keys({})", self.id)
    }
}

/// One request as it is signed.
pub struct Request<'a> {
    /// `GET`, `PUT` …
    pub method: &'a str,
    /// With its port, where that is not the scheme's own.
    pub host: &'a str,
    /// Percent-encoded (see [`encode`]).
    pub path: &'a str,
    /// Names and values, not encoded yet.
    pub query: &'a [(&'a str, String)],
    /// All headers that are sent and signed beside `host`; names in lower case.
    pub headers: &'a [(&'static str, String)],
    /// sha256 of the body in hex.
    pub payload: &'a str,
}

/// Where and when a signature counts.
pub struct Scope<'a> {
    /// `20130524T000000Z`.
    pub time: &'a str,
    /// `us-east-1`.
    pub region: &'a str,
    /// `s3`, `sts`.
    pub service: &'a str,
}

/// Percent-encoding of all but letters, digits and `-._~`; of slashes only where asked.
pub fn encode(text: &str, slashes: bool) -> String {
    let keep = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b) || (!slashes && b == b'/');
    text.bytes().map(|b| if keep(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

/// A query as it is sent: in the order of a signature.
pub fn query(pairs: &[(&str, String)]) -> String {
    let mut pairs: Vec<_> = pairs.iter().map(|(name, value)| (encode(name, true), encode(value, true))).collect();
    pairs.sort();
    pairs.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&")
}

/// A time of seconds since 1970 as signatures have it.
pub fn time(seconds: i64) -> String {
    oci::time::rfc3339(seconds).replace(['-', ':'], "")
}

/// sha256 in hex.
pub fn sha256(bytes: &[u8]) -> String {
    hex(ring::digest::digest(&ring::digest::SHA256, bytes).as_ref())
}

/// The header `Authorization`.
pub fn authorization(request: &Request<'_>, scope: &Scope<'_>, keys: &Keys) -> String {
    let mut headers: Vec<(&str, &str)> = request.headers.iter().map(|(n, v)| (*n, v.trim())).collect();
    headers.push(("host", request.host));
    headers.sort_unstable();
    let names = headers.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(";");
    let lines: String = headers.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
    let canonical = [request.method, request.path, &query(request.query), &lines, &names, request.payload].join("\n");
    let day = &scope.time[..scope.time.len().min(8)];
    let place = format!("{day}/{}/{}/aws4_request", scope.region, scope.service);
    let text = format!("AWS4-HMAC-SHA256\n{}\n{place}\n{}", scope.time, sha256(canonical.as_bytes()));
    let mut key = hmac(format!("AWS4{}", keys.secret).as_bytes(), day);
    for part in [scope.region, scope.service, "aws4_request", &text] {
        key = hmac(key.as_ref(), part);
    }
    let signature = hex(key.as_ref());
    format!("AWS4-HMAC-SHA256 Credential={}/{place},SignedHeaders={names},Signature={signature}", keys.id)
}

fn hmac(key: &[u8], text: &str) -> hmac::Tag {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    /// Signs as the examples of the API reference do.
    fn signature(
        method: &str,
        path: &str,
        query: &[(&str, String)],
        headers: &[(&'static str, &str)],
        payload: &str,
    ) -> String {
        let keys = Keys {
            id: "AKIAIOSFODNN7EXAMPLE".to_owned(),
            secret: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".to_owned(),
            token: None,
            until: None,
        };
        let time = time(1_369_353_600);
        let mut all = vec![("x-amz-content-sha256", payload.to_owned()), ("x-amz-date", time.clone())];
        all.extend(headers.iter().map(|(name, value)| (*name, (*value).to_owned())));
        let host = "examplebucket.s3.amazonaws.com";
        let request = Request { method, host, path, query, headers: &all, payload };
        let scope = Scope { time: &time, region: "us-east-1", service: "s3" };
        authorization(&request, &scope, &keys).rsplit_once('=').unwrap().1.to_owned()
    }

    #[test]
    fn the_examples_of_the_reference() {
        assert_eq!(
            signature("GET", "/test.txt", &[], &[("range", "bytes=0-9")], EMPTY),
            "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
        );
        let headers = [("date", "Fri, 24 May 2013 00:00:00 GMT"), ("x-amz-storage-class", "REDUCED_REDUNDANCY")];
        assert_eq!(
            signature("PUT", &encode("/test$file.text", false), &[], &headers, &sha256(b"Welcome to Amazon S3.")),
            "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd"
        );
        assert_eq!(
            signature("GET", "/", &[("lifecycle", String::new())], &[], EMPTY),
            "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"
        );
        let query = [("prefix", "J".to_owned()), ("max-keys", "2".to_owned())];
        assert_eq!(
            signature("GET", "/", &query, &[], EMPTY),
            "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"
        );
        assert_eq!(encode("/a b/sha256:ü", false), "/a%20b/sha256%3A%C3%BC");
    }
}
