//! Finding out what there is: repositories, tags, referrers, page by page (distribution-spec, "Content Discovery").

use hyper::StatusCode;
use oci::media;

use super::Registry;
use super::answer::{Answer, With, json};
use super::digest::ContentDigest;
use super::name::Repository;
use super::refusal::Refusal;
use super::service::Ask;

/// Bytes of one list of referrers: what clients must be ready to take as a manifest.
const PAGE: usize = 4 << 20;

/// Repositories of one page, when the caller asks for no number.
const REPOSITORIES: usize = 1000;

/// `GET /v2/_catalog`.
pub async fn catalog(registry: &Registry, ask: &Ask) -> Result<Answer, Refusal> {
    let count = ask.query.number("n")?.unwrap_or(REPOSITORIES);
    let all = registry.contents.repositories().await?;
    let all = all.iter().map(Repository::as_str).collect();
    let (page, more) = page(all, ask.query.get("last"), Some(count));
    let body = serde_json::json!({ "repositories": page });
    let answer = json(StatusCode::OK, "application/json", body.to_string().into_bytes());
    Ok(next(answer, more, "/v2/_catalog", &page, count, ""))
}

/// `GET /v2/<name>/tags/list`.
pub async fn tags(registry: &Registry, ask: &Ask, name: &Repository) -> Result<Answer, Refusal> {
    let count = ask.query.number("n")?;
    if !registry.contents.exists(name).await? {
        return Err(Refusal::name_unknown(format!("there is no repository {name}")));
    }
    let all = registry.contents.tags(name).await?;
    let mut all: Vec<&str> = all.iter().map(super::name::Tag::as_str).collect();
    all.sort_by_cached_key(|tag| place(tag));
    let (page, more) = page(all, ask.query.get("last"), count);
    let body = serde_json::json!({ "name": name.as_str(), "tags": page });
    let answer = json(StatusCode::OK, "application/json", body.to_string().into_bytes());
    Ok(next(answer, more, &format!("/v2/{name}/tags/list"), &page, count.unwrap_or(0), ""))
}

/// `GET /v2/<name>/referrers/<digest>`.
pub async fn referrers(
    registry: &Registry,
    ask: &Ask,
    name: &Repository,
    subject: &ContentDigest,
) -> Result<Answer, Refusal> {
    let kind = ask.query.get("artifactType");
    let count = ask.query.number("n")?.filter(|n| *n > 0).unwrap_or(usize::MAX);
    let mut all = registry.contents.referrers(name, subject).await?;
    all.sort_by(|a, b| a.digest.cmp(&b.digest));
    if let Some(kind) = kind {
        all.retain(|entry| entry.artifact_type.as_deref() == Some(kind));
    }
    let after = ask.query.get("last").unwrap_or_default();
    let mut rest = all.into_iter().filter(|entry| entry.digest.as_str() > after).peekable();
    let (mut page, mut bytes) = (Vec::new(), 0);
    while let Some(entry) = rest.peek() {
        let entry = serde_json::to_value(entry).map_err(|error| Refusal::failed(error.to_string()))?;
        bytes += entry.to_string().len();
        if !page.is_empty() && (bytes > PAGE || page.len() >= count) {
            break;
        }
        page.push(entry);
        rest.next();
    }
    let last = page.last().and_then(|entry| entry["digest"].as_str()).unwrap_or_default().to_owned();
    let body = serde_json::json!({ "schemaVersion": 2, "mediaType": media::OCI_INDEX, "manifests": page });
    let mut answer = json(StatusCode::OK, media::OCI_INDEX, body.to_string().into_bytes());
    let mut more = String::new();
    if let Some(kind) = kind {
        answer = answer.with("oci-filters-applied", "artifactType");
        more = format!("&artifactType={}", crate::client::escape(kind));
    }
    let path = format!("/v2/{name}/referrers/{subject}");
    Ok(next(answer, rest.peek().is_some(), &path, &[last.as_str()], page.len(), &more))
}

/// Where a name stands in a list: letters count before their case does.
fn place(name: &str) -> (String, &str) {
    (name.to_ascii_lowercase(), name)
}

/// The entries of a sorted list after `last`, `count` of them, and whether more follow.
fn page<'a>(all: Vec<&'a str>, last: Option<&str>, count: Option<usize>) -> (Vec<&'a str>, bool) {
    let last = last.map(place);
    let rest: Vec<&str> =
        all.into_iter().filter(|entry| last.as_ref().is_none_or(|last| place(entry) > *last)).collect();
    let count = count.unwrap_or(rest.len());
    let more = count > 0 && rest.len() > count;
    (rest.into_iter().take(count).collect(), more)
}

/// With the address of the next page, if there is one.
fn next(answer: Answer, more: bool, path: &str, page: &[&str], count: usize, rest: &str) -> Answer {
    match page.last() {
        Some(last) if more => {
            let last = crate::client::escape(last);
            answer.with("link", &format!("<{path}?n={count}&last={last}{rest}>; rel=\"next\""))
        }
        _ => answer,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages() {
        let all = || vec!["a", "b", "c"];
        assert_eq!(page(all(), None, None), (vec!["a", "b", "c"], false));
        assert_eq!(page(all(), None, Some(2)), (vec!["a", "b"], true));
        assert_eq!(page(all(), Some("b"), Some(2)), (vec!["c"], false));
        assert_eq!(page(all(), Some("aa"), None), (vec!["b", "c"], false));
        assert_eq!(page(all(), None, Some(0)), (vec![], false));
        assert_eq!(page(all(), None, Some(3)), (vec!["a", "b", "c"], false));
        assert_eq!(page(vec!["a", "B", "b"], Some("B"), None), (vec!["b"], false));
    }
}
