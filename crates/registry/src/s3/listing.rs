//! What is in a bucket: one object's description, and pages of many ("ListObjectsV2", Amazon S3 API reference).

use std::collections::BTreeSet;

use reqwest::{Method, Response};

use super::{Ask, Bucket, tag, xml};
use crate::Error;
use crate::client::root_cause;

/// An object as its bucket describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// Its key.
    pub key: String,
    /// Bytes.
    pub size: u64,
    /// When it was written, in milliseconds since 1970.
    pub modified: u64,
    /// What changes with every write.
    pub tag: String,
}

/// One level of a bucket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Level {
    /// Objects right here.
    pub objects: Vec<Object>,
    /// Beginnings of keys that go deeper, each with a slash at its end.
    pub deeper: BTreeSet<String>,
}

impl Bucket {
    /// All objects whose keys begin with `prefix`.
    pub async fn list(&self, prefix: &str) -> Result<Vec<Object>, Error> {
        Ok(self.pages(prefix, None).await?.objects)
    }

    /// The objects right below `prefix`, up to the next slash, and what goes deeper.
    pub async fn level(&self, prefix: &str) -> Result<Level, Error> {
        self.pages(prefix, Some("/")).await
    }

    async fn pages(&self, prefix: &str, delimiter: Option<&str>) -> Result<Level, Error> {
        let (mut level, mut next) = (Level::default(), None);
        loop {
            let mut ask = Ask::new(Method::GET, "");
            ask.query = vec![("list-type", "2".to_owned()), ("prefix", prefix.to_owned())];
            ask.query.extend(delimiter.map(|mark| ("delimiter", mark.to_owned())));
            ask.query.extend(next.take().map(|token| ("continuation-token", token)));
            let failed = |e: reqwest::Error| Error::Unreachable { url: self.shown(prefix), reason: root_cause(&e) };
            let page = self.send(ask).await?.text().await.map_err(failed)?;
            level.objects.extend(xml::all(&page, "Contents").into_iter().filter_map(object));
            let deeper = xml::all(&page, "CommonPrefixes").into_iter().filter_map(|inside| xml::text(inside, "Prefix"));
            level.deeper.extend(deeper);
            next = xml::text(&page, "NextContinuationToken").filter(|token| !token.is_empty());
            if next.is_none() || xml::text(&page, "IsTruncated").as_deref() != Some("true") {
                return Ok(level);
            }
        }
    }
}

fn object(inside: &str) -> Option<Object> {
    let modified = xml::text(inside, "LastModified").as_deref().and_then(oci::time::parse_rfc3339);
    let size = xml::text(inside, "Size")?.parse().ok()?;
    let tag = xml::text(inside, "ETag").unwrap_or_default();
    Some(Object { key: xml::text(inside, "Key")?, size, modified: millis(modified), tag })
}

/// What the headers of an answer say of its object.
pub(super) fn described(key: &str, answer: &Response) -> Object {
    let header = |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok());
    let size = header("content-length").and_then(|value| value.parse().ok()).unwrap_or(0);
    let modified = millis(header("last-modified").and_then(http_date));
    Object { key: key.to_owned(), size, modified, tag: tag(answer) }
}

fn millis(time: Option<(i64, u32)>) -> u64 {
    time.map_or(0, |(seconds, nanos)| u64::try_from(seconds).unwrap_or(0) * 1000 + u64::from(nanos / 1_000_000))
}

/// A time as HTTP has it: `Fri, 24 May 2013 00:00:00 GMT` (RFC 9110, section 5.6.7).
fn http_date(text: &str) -> Option<(i64, u32)> {
    let names = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let mut words = text.split(' ').skip(1);
    let (day, month, year, time) = (words.next()?, words.next()?, words.next()?, words.next()?);
    let month = names.iter().position(|name| *name == month)? + 1;
    oci::time::parse_rfc3339(&format!("{year}-{month:02}-{day:0>2}T{time}Z"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        assert_eq!(http_date("Fri, 24 May 2013 00:00:00 GMT"), Some((1_369_353_600, 0)));
        assert_eq!(http_date("yesterday"), None);
    }
}
