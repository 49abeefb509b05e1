//! The part of a build that attests: who asked for what, runs of scanners, provenance for outputs and for the history.

use std::collections::BTreeMap;
use std::sync::Arc;

use graph::Graph;
use oci::{Digest, Platform};
use serde_json::Value;

use super::asked::{Asked, Call, Origin};
use super::capture::Capture;
use super::predicate::Run;
use super::scan::{self, Scanner};
use super::statement::{Attestation, Given, SPDX, Said};
use super::wanted::{self, Sbom, Wanted};
use crate::Error;
use crate::build::Build;
use crate::event::now_micros;
use crate::exporters::{Built, Written};
use crate::sources::image::Resolved;

/// Predicates by the names of their results, each with its type.
pub(crate) type Predicates = BTreeMap<String, (&'static str, Vec<u8>)>;

impl Build {
    /// A request of a frontend, with what is known of the graphs that it is given.
    pub fn call(
        &self,
        frontend: &str,
        attributes: &BTreeMap<String, String>,
        inputs: &BTreeMap<String, Arc<Graph>>,
    ) -> Call {
        let find = |(name, graph): (&String, &Arc<Graph>)| Some((name.clone(), self.engine().producers.find(graph)?));
        let inputs = inputs.iter().filter_map(find).collect();
        Call { frontend: frontend.to_owned(), attributes: attributes.clone(), inputs }
    }

    /// Where a result comes from that `call` asks for, or that the client made a graph for.
    pub fn origin(&self, call: Option<Call>) -> Origin {
        let request = self.request();
        Origin { call, root: self.call(&request.frontend, &request.attributes, &request.inputs) }
    }

    /// Notes that a frontend made a graph, for builds that are given it.
    pub fn produced(&self, graph: &Graph, origin: &Origin) {
        if origin.call.is_none() {
            return;
        }
        let mut captured = Capture::default();
        captured.add(graph, &self.pins());
        let asked: Asked = origin.told(&captured);
        self.engine().producers.note(&self.request().id, graph, asked);
    }

    /// The scanner's image now; a policy may have given it another name.
    pub async fn scanner(&self, sbom: &Sbom, attributes: &BTreeMap<String, String>) -> Result<(Sbom, Resolved), Error> {
        let mode = attributes.get("image-resolve-mode").map_or("default", String::as_str);
        let (generator, resolved) = self.image(&sbom.generator, &Platform::host(), mode, &[]).await?;
        Ok((Sbom { generator, ..sbom.clone() }, resolved))
    }

    /// Runs a scanner's graph and adds what it says.
    pub async fn add_scan(&self, built: &mut Built, scan: Arc<Graph>) -> Result<(), Error> {
        let given = Given {
            bundle: true,
            result: self.evaluate(&scan).await?,
            path: "/".to_owned(),
            predicate: SPDX.to_owned(),
            about: Vec::new(),
            inline_only: false,
            core: Some(scan::CORE.to_owned()),
        };
        built.making.read.graphs.push(scan);
        self.add(built, &given).await
    }

    /// Adds attestations that are files of a result.
    pub async fn add(&self, built: &mut Built, given: &Given) -> Result<(), Error> {
        let view = self.view(&given.result).await?;
        built.attestations.extend(given.read(&view)?);
        Ok(())
    }

    /// Adds what is wanted and not there.
    pub(crate) async fn attest(&self, results: &mut [Built]) -> Result<(), Error> {
        let attributes = &self.request().attributes;
        let wanted = Wanted::read(attributes)?;
        let scanned = results.iter().flat_map(|built| &built.attestations).any(|a| a.predicate == SPDX);
        if let Some(sbom) = wanted.sbom.as_ref().filter(|_| !scanned) {
            let ((sbom, image), platform) = (self.scanner(sbom, attributes).await?, Platform::host());
            let scanner = Scanner { sbom: &sbom, digest: image.digest, config: &image.config, platform: &platform };
            let ignore_cache = attributes.get("no-cache").is_some_and(String::is_empty);
            for built in results.iter_mut().filter(|built| built.making.graph.head.is_some()) {
                let core = (*built.making.graph).clone();
                let target = scan::Target { core, ignore_cache, ..scan::Target::default() };
                let scan = Arc::new(scanner.graph(&built.platform.to_string(), &target)?);
                self.add_scan(built, scan).await?;
            }
        }
        if let Some(wanted) = &wanted.provenance {
            for built in results {
                built.attestations.push(self.provenance(built, wanted)?);
            }
        }
        Ok(())
    }

    fn provenance(&self, built: &Built, wanted: &wanted::Provenance) -> Result<Attestation, Error> {
        let time = oci::time::rfc3339_micros;
        let run = Run { id: self.request().id.clone(), started: time(self.started()), finished: time(now_micros()) };
        let made = built.making.provenance(wanted, &self.pins(), run, &self.engine().settings.provenance)?;
        Ok(Attestation {
            file: wanted.filename.clone(),
            predicate: made.kind().to_owned(),
            about: Vec::new(),
            inline_only: wanted.inline_only,
            core: false,
            said: Said::Made(Arc::new(made)),
        })
    }

    /// What the history keeps of each result: all that is known, whatever the outputs were to have. The predicates too.
    pub(crate) fn history_provenance(
        &self,
        results: &[Built],
        written: &Written,
    ) -> Result<(Predicates, BTreeMap<String, Value>), Error> {
        let builder = Wanted::read(&self.request().attributes)?.provenance.unwrap_or_default().builder;
        let wanted = wanted::Provenance { builder, ..wanted::Provenance::default() };
        let (mut all, mut predicates) = (BTreeMap::new(), BTreeMap::new());
        for (i, built) in results.iter().enumerate() {
            let Said::Made(made) = self.provenance(built, &wanted)?.said else { continue };
            let layers = written.layers.get(i).map(Vec::as_slice).unwrap_or_default();
            let predicate = made.predicate(layers, true);
            let said = serde_json::to_vec_pretty(&predicate);
            let said = said.map_err(|error| Error::Failed(format!("provenance can't be written: {error}")))?;
            all.insert(built.name.clone(), (made.kind(), said));
            predicates.insert(built.name.clone(), predicate);
        }
        Ok((all, predicates))
    }
}

/// The name under which a statement is found again: what it says, but for when and in which build.
pub(crate) fn timeless(statement: &Value) -> Digest {
    Digest::of(statement.to_string().as_bytes())
}
