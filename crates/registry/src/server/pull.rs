//! Pulling: manifests and blobs, whole or a range, and whether they are there (distribution-spec, "Pull").

use std::sync::Arc;

use hyper::{Method, StatusCode};

use super::answer::{Answer, Body, With, empty, json};
use super::digest::ContentDigest;
use super::name::{Repository, Target};
use super::refusal::Refusal;
use super::service::Ask;
use super::{Event, Registry, expire, mirror};

/// `GET` and `HEAD` of a manifest.
pub async fn manifest(
    registry: &Arc<Registry>,
    ask: &Ask,
    name: &Repository,
    target: &Target,
) -> Result<Answer, Refusal> {
    mirror::manifest(registry, name, target).await?;
    let unknown = || Refusal::manifest_unknown(format!("{name} has no manifest {target}"));
    let manifest = registry.contents.manifest(name, target).await?.ok_or_else(unknown)?;
    if let (Target::Tag(tag), &Method::GET) = (target, &ask.parts.method) {
        let (registry, name, tag) = (registry.clone(), name.clone(), tag.clone());
        tokio::spawn(async move {
            if let Err(error) = expire::note_pull(&registry, &name, &tag).await {
                registry.tell(Event::Failed { what: format!("noting a pull of {name}:{tag}"), why: error.to_string() });
            }
        });
    }
    let answer = json(StatusCode::OK, "application/octet-stream", manifest.bytes);
    let (mut parts, body) = answer.into_parts();
    parts.headers.remove("content-type");
    let answer = Answer::from_parts(parts, body);
    let digest = manifest.digest.to_string();
    Ok(answer
        .with("content-type", &manifest.media_type)
        .with("etag", &format!("\"{digest}\""))
        .with("docker-content-digest", &digest))
}

/// `GET` and `HEAD` of a blob.
pub async fn blob(
    registry: &Arc<Registry>,
    ask: &Ask,
    name: &Repository,
    digest: &ContentDigest,
) -> Result<Answer, Refusal> {
    let unknown = || Refusal::blob_unknown(format!("{name} has no blob {digest}"));
    mirror::blob(registry, name, digest).await?;
    let size = registry.contents.blob(name, digest).await?.ok_or_else(unknown)?;
    let range = match ask.header("range") {
        Some(text) if ask.parts.method == Method::GET => parse_range(text, size),
        _ => Range::Whole,
    };
    let (status, start, length) = match range {
        Range::Whole => (StatusCode::OK, 0, size),
        Range::Part { start, end } => (StatusCode::PARTIAL_CONTENT, start, end + 1 - start),
        Range::Outside => {
            let refusal = Refusal::range_outside(format!("{digest} has {size} bytes"));
            return Err(refusal.with("content-range", format!("bytes */{size}")));
        }
    };
    let mut answer = empty(status)
        .with("content-type", "application/octet-stream")
        .with("accept-ranges", "bytes")
        .with("etag", &format!("\"{digest}\""))
        .with("docker-content-digest", &digest.to_string());
    if status == StatusCode::PARTIAL_CONTENT {
        answer = answer.with("content-range", &format!("bytes {start}-{}/{size}", start + length - 1));
    }
    if ask.parts.method == Method::HEAD {
        return Ok(answer.with("content-length", &size.to_string()));
    }
    let body: Body = registry.contents.storage.stream(digest, start, length).await?.ok_or_else(unknown)?;
    *answer.body_mut() = body;
    Ok(answer)
}

/// What a header `Range` asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Range {
    Whole,
    Part { start: u64, end: u64 },
    Outside,
}

/// Reads a header `Range` (RFC 9110, 14.2). One that can't be read, and several at once, are left out of account.
fn parse_range(text: &str, size: u64) -> Range {
    let Some((first, last)) = text.trim().strip_prefix("bytes=").and_then(|range| range.split_once('-')) else {
        return Range::Whole;
    };
    let number = |text: &str| text.trim().parse::<u64>().ok();
    let part = match (number(first), number(last)) {
        (Some(start), None) if last.trim().is_empty() => (start, size.saturating_sub(1)),
        (Some(start), Some(end)) if start <= end => (start, end.min(size.saturating_sub(1))),
        // The last so many bytes.
        (None, Some(count)) if first.trim().is_empty() => (size.saturating_sub(count), size.saturating_sub(1)),
        _ => return Range::Whole,
    };
    let (start, end) = part;
    let nothing = first.trim().is_empty() && number(last) == Some(0);
    if start >= size || nothing { Range::Outside } else { Range::Part { start, end } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        let part = |start, end| Range::Part { start, end };
        let cases = [
            ("bytes=0-9", part(0, 9)),
            ("bytes=5-", part(5, 99)),
            ("bytes=-5", part(95, 99)),
            ("bytes=-500", part(0, 99)),
            ("bytes=90-200", part(90, 99)),
            ("bytes=100-", Range::Outside),
            ("bytes=-0", Range::Outside),
            ("bytes=9-5", Range::Whole),
            ("bytes=0-1,5-6", Range::Whole),
            ("lines=0-1", Range::Whole),
            ("bytes=", Range::Whole),
        ];
        for (text, range) in cases {
            assert_eq!(parse_range(text, 100), range, "{text}");
        }
        assert_eq!(parse_range("bytes=0-", 0), Range::Outside);
    }
}
