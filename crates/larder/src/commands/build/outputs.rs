//! Where results go: `--output`, `--push`, `--load`, with names and annotations.
//! What an output's attributes mean is the builder's.

use std::collections::BTreeMap;

use builder::exporters;

use super::csv;
use super::flags::Flags;
use crate::client::LocalSession;
use crate::client::outputs::Destination;

type Result<T> = std::result::Result<T, String>;

/// Outputs as asked for; without any it is an image in the store.
pub fn of(flags: &Flags, session: &mut LocalSession) -> Result<Vec<exporters::Request>> {
    for name in &flags.tag {
        oci::Reference::parse(name).map_err(|error| format!("-t {name}: {error}"))?;
    }
    let mut requests = Vec::new();
    for text in &flags.output {
        requests.push(output(text, session)?);
    }
    if flags.push {
        push(&mut requests, session);
    }
    if flags.load {
        session.outputs.push(Destination::DockerLoad);
        requests.push(exporters::Request { kind: "docker".to_owned(), ..Default::default() });
    }
    if requests.is_empty() {
        session.outputs.push(Destination::None);
        requests.push(exporters::Request { kind: "image".to_owned(), ..Default::default() });
    }
    for request in &mut requests {
        if matches!(request.kind.as_str(), "image" | "registry" | "oci" | "docker") {
            if !flags.tag.is_empty() {
                request.attributes.insert("name".to_owned(), flags.tag.join(","));
            }
            for text in &flags.annotation {
                request.attributes.extend(annotation(text)?);
            }
        }
    }
    // Said before anything is built, and not after.
    let is_nameless =
        |r: &exporters::Request| matches!(r.kind.as_str(), "image" | "registry") && !r.attributes.contains_key("name");
    let is_pushed = |r: &exporters::Request| {
        r.kind == "registry" || r.attributes.get("push").is_some_and(|push| matches!(push.as_str(), "" | "true" | "1"))
    };
    if requests.iter().any(|r| is_nameless(r) && is_pushed(r)) {
        return Err("what is pushed needs a name: give one with -t REGISTRY/NAME".to_owned());
    }
    Ok(requests)
}

/// `[TYPE[PLATFORM],…:]KEY=VALUE` as the attributes of an output.
fn annotation(text: &str) -> Result<Vec<(String, String)>> {
    let (key, value) = text.split_once('=').ok_or_else(|| format!("--annotation {text}: expected KEY=VALUE"))?;
    let Some((kinds, key)) = key.split_once(':') else {
        return Ok(vec![(format!("annotation.{key}"), value.to_owned())]);
    };
    let attribute = |kind: &str| {
        let name = kind.split_once('[').map_or(kind, |(name, _)| name);
        match name {
            "index" | "index-descriptor" | "manifest" | "manifest-descriptor" => {
                Ok((format!("annotation-{kind}.{key}"), value.to_owned()))
            }
            _ => Err(format!(
                "--annotation {text}: `{kind}` is no place for one; expected index, index-descriptor, manifest or \
                 manifest-descriptor, and perhaps a platform in brackets"
            )),
        }
    };
    kinds.split(',').map(attribute).collect()
}

fn push(requests: &mut Vec<exporters::Request>, session: &mut LocalSession) {
    let pushed = "push".to_owned();
    let image = requests.iter_mut().find(|r| matches!(r.kind.as_str(), "image" | "registry"));
    match image {
        Some(request) => drop(request.attributes.insert(pushed, "true".to_owned())),
        None => {
            let attributes = BTreeMap::from([(pushed, "true".to_owned())]);
            requests.push(exporters::Request { kind: "image".to_owned(), attributes });
            session.outputs.push(Destination::None);
        }
    }
}

/// One `--output`: `type=…,…`, a directory, or `-`.
fn output(text: &str, session: &mut LocalSession) -> Result<exporters::Request> {
    if !text.contains('=') {
        let (kind, place) = match text {
            "-" => ("tar", Destination::Standard),
            path => ("local", Destination::Directory(path.into())),
        };
        session.outputs.push(place);
        return Ok(exporters::Request { kind: kind.to_owned(), ..Default::default() });
    }
    let mut attributes = csv::pairs(text)?;
    let kind = attributes.remove("type").ok_or_else(|| format!("--output {text}: a type is missing"))?;
    let dest = attributes.remove("dest").filter(|d| !d.is_empty());
    let is_directory = attributes.get("tar").is_some_and(|t| t == "false");
    match attributes.get("mode").map(String::as_str) {
        Some("delete") if kind == "local" => {
            return Err(format!(
                "--output {text}: mode=delete is not built: larder build removes no files of yours; empty the folder before"
            ));
        }
        Some(mode) if kind == "local" && !matches!(mode, "" | "copy") => {
            return Err(format!("--output {text}: mode={mode} is unknown; expected copy"));
        }
        _ => {}
    }
    let place = match (kind.as_str(), dest.as_deref()) {
        ("local", None) => return Err(format!("--output {text}: dest=FOLDER is missing")),
        ("local", Some(path)) => Destination::Directory(path.into()),
        ("docker", None) => Destination::DockerLoad,
        ("oci", Some(path)) if is_directory => Destination::Directory(path.into()),
        ("tar" | "oci" | "docker", Some("-")) => Destination::Standard,
        ("tar" | "oci" | "docker", Some(path)) => Destination::File(path.into()),
        ("tar" | "oci", None) => return Err(format!("--output {text}: dest=FILE is missing")),
        _ => Destination::None,
    };
    session.outputs.push(place);
    Ok(exporters::Request { kind, attributes })
}
