//! BuildKit's attributes of the Dockerfile frontend as options of lowering. A value that can't be read says what was expected.

use dockerfile::lower::{Input, NamedContext, NoCache, Options};
use graph::git::GitUrl;
use oci::Platform;

use super::context;
use super::dockerfile::{Definition, Frontend};
use crate::Error;

impl Frontend<'_> {
    pub(super) fn options(
        &self,
        definition: &Definition,
        platform: &Platform,
        host: &Platform,
        ignore: Vec<String>,
    ) -> Result<Options, Error> {
        let mut options = Options::new(platform.clone(), host.clone());
        options.platform_given = self.attribute("platform").is_some();
        options.filename.clone_from(&definition.filename);
        options.definition = Some(definition.source.clone());
        options.ignore = ignore;
        self.build.request().id.clone_into(&mut options.session);
        options.target = self.attribute("target").unwrap_or_default().to_owned();
        for (name, value) in self.attributes {
            if let Some(arg) = name.strip_prefix("build-arg:") {
                options.build_args.insert(arg.to_owned(), value.clone());
            } else if let Some(label) = name.strip_prefix("label:") {
                options.labels.insert(label.to_owned(), value.clone());
            } else if let Some(context) = name.strip_prefix("context:") {
                options.contexts.insert(context.to_owned(), named(context, value)?);
            }
        }
        self.link(&mut options, platform)?;
        options.context.clone_from(&self.remote.context);
        options.no_cache = match self.attributes.get("no-cache").map(String::as_str) {
            None => NoCache::None,
            Some("") => NoCache::All,
            Some(stages) => NoCache::Stages(stages.split(',').map(str::to_owned).collect()),
        };
        options.network = self.attribute("force-network-mode").unwrap_or_default().to_owned();
        options.hostname = self.attribute("hostname").unwrap_or_default().to_owned();
        if let Some(name) = options.build_args.get("BUILDKIT_SANDBOX_HOSTNAME") {
            options.hostname.clone_from(name);
        }
        options.cgroup_parent = self.attribute("cgroup-parent").unwrap_or_default().to_owned();
        options.resolve_mode = self.attribute("image-resolve-mode").unwrap_or_default().to_owned();
        for host in self.attribute("add-hosts").iter().flat_map(|v| v.split(',')) {
            let (name, ip) = host.split_once('=').ok_or_else(|| bad("add-hosts", host, "expected NAME=IP"))?;
            options.add_hosts.push((name.to_owned(), ip.to_owned()));
        }
        if let Some(size) = self.attribute("shm-size") {
            options.shm_size = size.parse().map_err(|_| bad("shm-size", size, "expected bytes"))?;
        }
        for limit in self.attribute("ulimit").iter().flat_map(|v| v.split(',')) {
            options.ulimits.push(ulimit(limit).ok_or_else(|| bad("ulimit", limit, "expected NAME=SOFT[:HARD]"))?);
        }
        options.check = self.attribute("build-arg:BUILDKIT_DOCKERFILE_CHECK").map(str::to_owned);
        Ok(options)
    }

    /// Contexts of a platform (`NAME::PLATFORM`) go before those of all, and inputs bring their image's configuration.
    fn link(&self, options: &mut Options, platform: &Platform) -> Result<(), Error> {
        let suffix = format!("::{platform}");
        let exact: Vec<_> = options.contexts.iter().filter(|(name, _)| name.ends_with(&suffix)).collect();
        let exact: Vec<_> =
            exact.into_iter().map(|(n, c)| (n.trim_end_matches(&suffix).to_owned(), c.clone())).collect();
        options.contexts.extend(exact);
        for (name, graph) in self.inputs {
            let config = self.attribute(&format!("input-metadata:{name}")).map(|text| context::config(text, platform));
            let config = config.transpose()?.flatten().map(Box::new);
            options.inputs.insert(name.clone(), Input { graph: graph.clone(), config });
        }
        Ok(())
    }
}

fn bad(name: &str, value: &str, expected: &str) -> Error {
    Error::Request(format!("`{value}` is no value for {name}: {expected}"))
}

/// Reads `NAME=SOFT[:HARD]`.
pub fn ulimit(text: &str) -> Option<(String, i64, i64)> {
    let (name, values) = text.split_once('=')?;
    let (soft, hard) = values.split_once(':').unwrap_or((values, values));
    Some((name.to_owned(), soft.parse().ok()?, hard.parse().ok()?))
}

/// What a client means by `context:NAME=VALUE` (BuildKit's forms).
fn named(name: &str, value: &str) -> Result<NamedContext, Error> {
    if let Some(image) = value.strip_prefix("docker-image://").or(value.strip_prefix("docker-image:")) {
        return Ok(NamedContext::Image(image.to_owned()));
    }
    if let Some(layout) = value.strip_prefix("oci-layout://").or(value.strip_prefix("oci-layout:")) {
        let at = layout.find(['@', ':']).unwrap_or(layout.len());
        return Ok(NamedContext::Layout { store: layout[..at].to_owned(), reference: layout[at..].to_owned() });
    }
    Ok(match value.strip_prefix("local:") {
        Some(directory) => NamedContext::Local(directory.to_owned()),
        None if value.starts_with("input:") => NamedContext::Input(value.trim_start_matches("input:").to_owned()),
        None if value.contains("://") || value.starts_with("git@") => {
            GitUrl::read(value).map_err(|e| Error::Request(format!("the context {name}: {e}")))?;
            NamedContext::Remote(value.to_owned())
        }
        None => NamedContext::Local(name.to_owned()),
    })
}
