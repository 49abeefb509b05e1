//! `--cache-from` and `--cache-to` as they are typed: what goes to the builder, and which folders of this machine it may use.
//! A cache that is not there yet is left out with a warning, as the first build of a branch has none.

use std::path::Path;

use builder::caches::Request;

use super::csv;
use crate::client::LocalSession;
use crate::client::content::Folder;

/// Caches to read, and what was left out.
pub fn imports(texts: &[String], session: &mut LocalSession) -> Result<(Vec<Request>, Vec<String>), String> {
    let (mut requests, mut warnings) = (Vec::new(), Vec::new());
    for text in texts {
        let mut request = parse("--cache-from", text)?;
        if request.kind == "local" {
            let src = request.attributes.get("src").filter(|s| !s.is_empty());
            let src = src.ok_or_else(|| format!("--cache-from {text}: src=FOLDER is missing"))?.clone();
            let folder = Folder::new(Path::new(&src));
            if !request.attributes.contains_key("digest") {
                let tag = request.attributes.get("tag").map_or("latest", String::as_str);
                match folder.named(Some(tag)) {
                    Ok(digest) => drop(request.attributes.insert("digest".to_owned(), digest.to_string())),
                    Err(error) => {
                        warnings.push(format!("no cache is read from {src}: {error}"));
                        continue;
                    }
                }
            }
            session.content.insert(format!("local:{src}"), folder);
        }
        requests.push(request);
    }
    Ok((requests, warnings))
}

/// `type=…,key=value,…`, or the reference of a registry.
fn parse(flag: &str, text: &str) -> Result<Request, String> {
    if !text.contains('=') {
        let attributes = [("ref".to_owned(), text.to_owned())].into();
        return Ok(Request { kind: "registry".to_owned(), attributes });
    }
    let mut attributes = csv::pairs(text)?;
    let kind = attributes.remove("type").ok_or_else(|| format!("{flag} {text}: a type is missing"))?;
    Ok(Request { kind, attributes })
}
