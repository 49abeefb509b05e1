//! Runs of an SBOM scanner, as a graph: the scanner's image over the files of a result, its statements in a directory.
//! The protocol is BuildKit's (docs/attestations/sbom-protocol.md there): where the files are and where statements go is
//! told in the environment. Nothing is run here.

use std::collections::BTreeMap;

use graph::wire::{self, op};
use graph::{Edge, Graph, GraphBuilder};
use oci::{Digest, ImageConfig, Platform, Reference};

use super::wanted::Sbom;
use crate::Error;

/// What the files of the result itself are called for a scanner, and so the statement about them.
pub const CORE: &str = "sbom";
const SOURCE: &str = "/run/src";
const OUT: &str = "/run/out/";

/// The scanner's image as it was resolved.
pub struct Scanner<'a> {
    /// What is wanted.
    pub sbom: &'a Sbom,
    /// What its name is now.
    pub digest: Digest,
    /// Its configuration.
    pub config: &'a ImageConfig,
    /// The platform that it runs on.
    pub platform: &'a Platform,
}

/// What is scanned.
#[derive(Clone, Debug, Default)]
pub struct Target {
    /// The result.
    pub core: Graph,
    /// Other trees, by names: stages, the context.
    pub extras: BTreeMap<String, Graph>,
    /// Whether the scan runs even if it ran before.
    pub ignore_cache: bool,
}

fn invalid(error: graph::Error) -> Error {
    Error::Failed(error.to_string())
}

impl Scanner<'_> {
    /// The graph whose result has one statement a file in its root. `name` says what is scanned, for progress.
    pub fn graph(&self, name: &str, target: &Target) -> Result<Graph, Error> {
        let mut builder = GraphBuilder::default();
        let image = self.image(&mut builder)?;
        let mut inputs = vec![image];
        let mut mounts = vec![mount("/", 0)];
        mounts[0].output = -1;
        let core = format!("{SOURCE}/core/{CORE}");
        let mut add = |builder: &mut GraphBuilder, dest: String, graph: &Graph| {
            let head = builder.graft(graph).map_err(invalid)?;
            let index = head.map_or(-1, |edge| {
                let known = inputs.iter().position(|input| *input == edge);
                known.unwrap_or_else(|| {
                    inputs.push(edge);
                    inputs.len() - 1
                }) as i64
            });
            mounts.push(wire::Mount { readonly: true, output: -1, ..mount(&dest, index) });
            Ok::<_, Error>(())
        };
        add(&mut builder, core.clone(), &target.core)?;
        for (name, graph) in &target.extras {
            add(&mut builder, format!("{SOURCE}/extras/sbom-{name}"), graph)?;
        }
        let tmpfs = Some(wire::TmpfsOpt::default());
        mounts.push(wire::Mount { mount_type: TMPFS, output: -1, tmpfs_opt: tmpfs, ..mount("/tmp", -1) });
        mounts.push(wire::Mount { output: 0, ..mount(OUT, -1) });
        mounts.sort_by(|a, b| a.dest.cmp(&b.dest));
        let exec = wire::ExecOp { meta: Some(self.process(&core, target)?), mounts, ..wire::ExecOp::default() };
        let op = wire::Op {
            inputs: inputs
                .iter()
                .map(|e| wire::Input { digest: e.vertex.to_string(), index: i64::from(e.output) })
                .collect(),
            op: Some(op::Op::Exec(exec)),
            platform: Some(wire_platform(self.platform)),
            constraints: Some(wire::WorkerConstraints::default()),
        };
        let shown = format!("[{name}] generating sbom using {}@{}", self.sbom.generator, self.digest);
        let mut metadata = named(&shown);
        metadata.ignore_cache = target.ignore_cache;
        let vertex = builder.add(op, metadata).map_err(invalid)?;
        Ok(builder.finish(Some(Edge { vertex, output: 0 }), target.core.source.clone()))
    }

    fn image(&self, builder: &mut GraphBuilder) -> Result<Edge, Error> {
        let pinned = Reference { digest: Some(self.digest), ..self.sbom.generator.clone() };
        let source = wire::SourceOp { identifier: format!("docker-image://{pinned}"), attrs: BTreeMap::new() };
        let op = wire::Op {
            op: Some(op::Op::Source(source)),
            platform: Some(wire_platform(self.platform)),
            constraints: Some(wire::WorkerConstraints::default()),
            ..wire::Op::default()
        };
        let vertex = builder.add(op, named(&format!("docker-image://{pinned}"))).map_err(invalid)?;
        Ok(Edge { vertex, output: 0 })
    }

    fn process(&self, core: &str, target: &Target) -> Result<wire::Meta, Error> {
        let container = &self.config.config;
        let words = [&container.entrypoint, &container.cmd];
        let args: Vec<String> = words.into_iter().flatten().flatten().cloned().collect();
        if args.is_empty() {
            let text = format!("the scanner {} has neither an entrypoint nor a command", self.sbom.generator);
            return Err(Error::Failed(text));
        }
        let mut env = container.env.clone();
        env.push(format!("BUILDKIT_SCAN_DESTINATION={OUT}"));
        env.push(format!("BUILDKIT_SCAN_SOURCE={core}"));
        if !target.extras.is_empty() {
            env.push(format!("BUILDKIT_SCAN_SOURCE_EXTRAS={SOURCE}/extras"));
        }
        env.extend(self.sbom.parameters.iter().map(|(key, value)| format!("BUILDKIT_SCAN_{key}={value}")));
        let cwd = if container.working_dir.is_empty() { "/" } else { &container.working_dir };
        let remove = true;
        let cwd = cwd.to_owned();
        Ok(wire::Meta { args, env, cwd, remove_mount_stubs_recursive: remove, ..wire::Meta::default() })
    }
}

const TMPFS: i32 = 4;

fn mount(dest: &str, input: i64) -> wire::Mount {
    wire::Mount { dest: dest.to_owned(), input, ..wire::Mount::default() }
}

fn named(name: &str) -> wire::OpMetadata {
    let description = BTreeMap::from([("llb.customname".to_owned(), name.to_owned())]);
    wire::OpMetadata { description, ..wire::OpMetadata::default() }
}

fn wire_platform(platform: &Platform) -> wire::Platform {
    wire::Platform {
        architecture: platform.architecture.clone(),
        os: platform.os.clone(),
        variant: platform.variant.clone(),
        os_version: platform.os_version.clone(),
        os_features: platform.os_features.clone(),
    }
}
