//! A cache from elsewhere as the solver asks it: keys by links, results by keys. Its keys are the records' names, so that
//! roots are the same keys as everywhere.

use std::collections::HashMap;

use oci::Digest;

use super::{Config, Output, Record};
use crate::key::export_digest;
use crate::record::{KeyId, Link};

/// See the module.
#[derive(Clone, Debug)]
pub struct Imported {
    config: Config,
    names: Vec<Digest>,
    by_name: HashMap<Digest, usize>,
    /// From a record's name to what reads it: input, selector, record.
    readers: HashMap<Digest, Vec<(u32, Option<Digest>, usize)>>,
}

impl Imported {
    /// Indexes a cache.
    pub fn new(config: Config) -> Imported {
        let names = config.names();
        let by_name = names.iter().copied().zip(0..).collect();
        let mut readers: HashMap<Digest, Vec<_>> = HashMap::new();
        for (reader, record) in config.records().iter().enumerate() {
            for (input, list) in record.inputs.iter().enumerate() {
                for key in list {
                    readers.entry(names[key.record]).or_default().push((input as u32, key.selector, reader));
                }
            }
        }
        Imported { config, names, by_name, readers }
    }

    /// Keys that `link` leads to from `parent`.
    pub fn children(&self, parent: &KeyId, link: &Link) -> Vec<KeyId> {
        let Some(readers) = self.readers.get(parent) else { return Vec::new() };
        let digest = export_digest(&link.digest, link.output);
        let fits = |(input, selector, reader): &&(u32, Option<Digest>, usize)| {
            *input == link.input && *selector == link.selector && self.config.records()[*reader].digest == digest
        };
        readers.iter().filter(fits).map(|(_, _, reader)| self.names[*reader]).collect()
    }

    /// The record under a key.
    pub fn record(&self, key: &KeyId) -> Option<&Record> {
        self.by_name.get(key).map(|index| &self.config.records()[*index])
    }

    /// The result under a key.
    pub fn output(&self, key: &KeyId) -> Option<&Output> {
        self.record(key)?.output.as_ref()
    }

    /// The keys that lead to a key: for each input the selector and the input's key.
    pub fn inputs(&self, key: &KeyId) -> Vec<Vec<(Option<Digest>, KeyId)>> {
        let Some(record) = self.record(key) else { return Vec::new() };
        let of = |list: &Vec<super::Input>| list.iter().map(|i| (i.selector, self.names[i.record])).collect();
        record.inputs.iter().map(of).collect()
    }

    /// The links that lead to a key of an operation with this cache digest, as a store keeps them.
    pub fn links(&self, key: &KeyId, operation: Digest, output: u32) -> Vec<(KeyId, Link, KeyId)> {
        let mut links = Vec::new();
        for (input, list) in self.inputs(key).into_iter().enumerate() {
            for (selector, parent) in list {
                links.push((parent, Link { input: input as u32, output, digest: operation, selector }, *key));
            }
        }
        links
    }

    /// The whole cache.
    pub fn config(&self) -> &Config {
        &self.config
    }
}
