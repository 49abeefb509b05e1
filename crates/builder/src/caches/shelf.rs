//! A server that keeps caches and is no registry: blobs by digest, and configs that say themselves what their layers are.
//! What such servers have in common; the servers are `s3` and `gha`.

use std::collections::BTreeMap;
use std::io::Write;

use futures_util::future::BoxFuture;
use oci::{Descriptor, Digest};
use registry::Content;
use solver::exchange::{Annotations, Config, Moment, UNCOMPRESSED};

use crate::Work;

/// Configs that are larger lose their oldest results.
pub const MOST: usize = 4 << 20;

/// When a layer was made, on its descriptor: BuildKit's name.
const CREATED: &str = "buildkit/createdat";

/// See the module. What fails is the server's or the way's to it.
pub trait Shelf: Send + Sync {
    /// Where it is, for people.
    fn shown(&self) -> String;

    /// Blobs that it is sent at once.
    fn uploads(&self) -> usize;

    /// Whether it has a blob. Who writes keeps it from growing old with that.
    fn has<'a>(&'a self, blob: &'a Digest) -> BoxFuture<'a, Result<bool, registry::Error>>;

    /// A blob, verified.
    fn read<'a>(
        &'a self,
        blob: &'a Descriptor,
        out: &'a mut (dyn Write + Send),
        progress: &'a mut (dyn FnMut(u64) + Send),
    ) -> BoxFuture<'a, Result<(), registry::Error>>;

    /// Takes a blob in that it does not have.
    fn write<'a>(&'a self, blob: &'a Descriptor, content: Content) -> BoxFuture<'a, Result<(), registry::Error>>;

    /// All that readers find; `None` where nothing was written yet.
    fn config<'a>(&'a self) -> BoxFuture<'a, Result<Option<Config>, crate::Error>>;

    /// Joins a config whose layers are there with what is there.
    fn add<'a>(
        &'a self,
        work: &'a Work,
        config: &'a Config,
        blobs: &'a BTreeMap<Digest, Descriptor>,
    ) -> BoxFuture<'a, Result<(), crate::Error>>;
}

/// The descriptors of a config's layers, as far as it describes them.
pub fn described(config: &Config) -> BTreeMap<Digest, Descriptor> {
    let describe = |blob: Digest| {
        let found = config.annotations(&blob)?;
        let mut descriptor = Descriptor::new(&found.media_type, blob, found.size);
        descriptor.annotations.insert(UNCOMPRESSED.to_owned(), found.diff_id.to_string());
        if found.created != NEVER {
            let created = oci::time::rfc3339_nanos(found.created.seconds, found.created.nanos);
            descriptor.annotations.insert(CREATED.to_owned(), created);
        }
        Some((blob, descriptor))
    };
    config.blobs().filter_map(describe).collect()
}

/// A config that describes its layers itself. Results of layers that nothing describes are left out: no reader takes them.
pub fn describing(config: &Config, blobs: &BTreeMap<Digest, Descriptor>) -> Result<Config, solver::exchange::Error> {
    let describe = |(blob, descriptor): (&Digest, &Descriptor)| {
        let diff_id = Digest::parse(descriptor.annotations.get(UNCOMPRESSED)?).ok()?;
        let created = descriptor.annotations.get(CREATED).and_then(|text| oci::time::parse_rfc3339(text));
        let created = created.map_or(NEVER, |(seconds, nanos)| Moment { seconds, nanos });
        let (media_type, size) = (descriptor.media_type.clone(), descriptor.size);
        Some((*blob, Annotations { media_type, diff_id, size, created }))
    };
    let described: BTreeMap<Digest, Annotations> = blobs.iter().filter_map(describe).collect();
    let config = config.without(|output| !output.blobs.iter().all(|blob| described.contains_key(blob)));
    Config::of(config.records().to_vec(), described)
}

/// Go's zero time: no time.
const NEVER: Moment = Moment { seconds: -62_135_596_800, nanos: 0 };

#[cfg(test)]
mod tests {
    use super::*;
    use solver::exchange::{Output, Record};

    #[test]
    fn what_is_described_is_read_again() {
        let (blob, other) = (Digest::of(b"blob"), Digest::of(b"other"));
        let mut layer = Descriptor::new(oci::media::OCI_LAYER_GZIP, blob, 7);
        layer.annotations.insert(UNCOMPRESSED.to_owned(), Digest::of(b"tar").to_string());
        let mut dated = layer.clone();
        dated.annotations.insert(CREATED.to_owned(), "2026-11-24T02:00:00.5Z".to_owned());
        let record = |name: &[u8], blob: Digest| Record {
            digest: Digest::of(name),
            inputs: Vec::new(),
            output: Some(Output { created: Moment::of_millis(1), blobs: vec![blob] }),
        };
        let config = Config::of(vec![record(b"a", blob), record(b"b", other)], BTreeMap::new()).unwrap();
        for layer in [layer, dated] {
            let blobs = BTreeMap::from([(blob, layer), (other, Descriptor::new("", other, 1))]);
            let written = describing(&config, &blobs).unwrap();
            let read = Config::parse(&written.to_json()).unwrap();
            assert_eq!(described(&read), BTreeMap::from([(blob, blobs[&blob].clone())]));
            assert_eq!(read.records().iter().filter(|record| record.output.is_some()).count(), 1);
        }
    }
}
