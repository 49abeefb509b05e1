//! A graph of a build becomes a result: by the driver, and once more where what a cache gave can't be had after all.
//! It writes no output.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};

use graph::{Edge, Graph, Kind};

use super::{Build, Doing};
use crate::driver::{Held, Order};
use crate::{Error, Live, exporters};

impl Build {
    /// The result of a graph's head, whatever it takes.
    pub fn evaluate<'a>(&'a self, graph: &'a Arc<Graph>) -> Doing<'a, Held> {
        Box::pin(async move {
            let graph = self.let_through(graph.clone(), &[])?;
            let Some(head) = graph.head else { return Ok(Held::scratch()) };
            refuse(&graph, &self.request.entitlements)?;
            let graph = Arc::new(graph.below(head));
            self.empty_volumes(&graph)?;
            loop {
                let held = self.evaluate_once(&graph, head).await?;
                let Live::Remote(remote) = &held.live else { return Ok(held) };
                // What an output needs is brought now: what is lost elsewhere can still be made here.
                let outputs = &self.request.outputs;
                let brought = if outputs.iter().any(exporters::Request::takes_files) {
                    remote.snapshot(&self.work(head.vertex)?).await.map(drop)
                } else if outputs.iter().any(|output| output.kind != "cacheonly") {
                    remote.fetch(&self.work(head.vertex)?).await
                } else {
                    return Ok(held);
                };
                if brought.is_ok() || remote.lost().is_none() {
                    return Ok(held);
                }
            }
        })
    }

    /// Steps that do not use the cache find nothing in their volumes either, once a build.
    fn empty_volumes(&self, graph: &Graph) -> Result<(), Error> {
        let unwanted = graph.vertices().filter(|vertex| vertex.metadata.ignore_cache);
        let mounts = unwanted.flat_map(|vertex| match vertex.kind() {
            Some(Kind::Exec(exec)) => exec.mounts.as_slice(),
            _ => &[],
        });
        let names: BTreeSet<String> =
            mounts.filter_map(|mount| mount.cache_opt.as_ref()).map(|cache| cache.id.clone()).collect();
        let mut emptied = self.emptied.lock().unwrap_or_else(PoisonError::into_inner);
        let names = &names - &*emptied;
        if !names.is_empty() {
            self.engine.store.volumes().retire(&names)?;
            emptied.extend(names);
        }
        Ok(())
    }

    async fn evaluate_once(&self, graph: &Arc<Graph>, head: Edge) -> Result<Held, Error> {
        let order = Order {
            graph: graph.clone(),
            wanted: vec![head],
            session: self.session.clone(),
            seen: self.seen.clone(),
            events: self.events.clone(),
            id: self.request.id.clone(),
            project: self.session.project(),
            target: self.request.attributes.get("target").cloned().unwrap_or_default(),
            fail_on_miss: self.request.fail_on_miss.clone(),
            imports: self.imports(graph).await,
            trail: self.trail(),
            early: self.early()?,
            asked: self.asked.clone(),
        };
        let done = self.engine.driver.build(order).await?;
        self.pins().extend(done.pins);
        self.caches.made(head);
        Ok(done.results.into_iter().next().unwrap_or_else(Held::scratch))
    }
}

/// What a step may only do when the client grants it.
fn refuse(graph: &Graph, entitlements: &[String]) -> Result<(), Error> {
    for vertex in graph.vertices() {
        let Some(graph::Kind::Exec(op)) = vertex.kind() else { continue };
        let needed = match (op.network, op.security) {
            (1, _) => "network.host",
            (_, 1) => "security.insecure",
            _ => continue,
        };
        if !entitlements.iter().any(|e| e == needed) {
            let name = vertex.name();
            return Err(Error::Request(format!("{needed} is not allowed, and {name} needs it: pass --allow {needed}")));
        }
    }
    Ok(())
}
