//! How a build came about, read from the history of the daemon that made it, as docker-buildx does: the record names a blob
//! of the daemon's own content for each result.

use std::collections::BTreeMap;

use futures_util::StreamExt;
use oci::Digest;
use proto::control::{BuildHistoryRequest, BuildResultInfo, Descriptor};
use serde_json::Value;

use super::{Client, Error};

/// Types of predicates that tell how something was built.
const PROVENANCE: &str = "https://slsa.dev/provenance/";

impl Client {
    /// Predicates of a build that has ended, by the name of the result.
    pub async fn provenance(&self, build: &str) -> Result<BTreeMap<String, Value>, Error> {
        let request = BuildHistoryRequest { r#ref: build.to_owned(), early_exit: true, ..Default::default() };
        let mut events = self.histories(request).await?;
        let mut predicates = BTreeMap::new();
        while let Some(event) = events.next().await {
            let Some(record) = event?.record else { continue };
            let only = record.result.filter(|_| record.results.is_empty()).map(|result| (String::new(), result));
            for (name, result) in record.results.into_iter().chain(only) {
                let Some(blob) = provenance(&result) else { continue };
                let unreadable = |reason: &dyn std::fmt::Display| Error::Refused {
                    address: self.address.clone(),
                    reason: format!("its provenance {} can't be read: {reason}", blob.digest),
                };
                let digest = Digest::parse(&blob.digest).map_err(|e| unreadable(&e))?;
                let mut bytes = Vec::new();
                self.blob(&digest, &mut bytes).await?;
                predicates.insert(name, serde_json::from_slice(&bytes).map_err(|e| unreadable(&e))?);
            }
        }
        Ok(predicates)
    }
}

fn provenance(result: &BuildResultInfo) -> Option<&Descriptor> {
    let kind = |d: &Descriptor| d.annotations.get("in-toto.io/predicate-type").cloned();
    result.attestations.iter().find(|d| kind(d).is_some_and(|kind| kind.starts_with(PROVENANCE)))
}
