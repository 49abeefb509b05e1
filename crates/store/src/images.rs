//! Named images: a name, what it points to, and the blobs and snapshots that it keeps from the collector.
//! It never reads a manifest: whoever names an image says what belongs to it.

use oci::{Descriptor, Digest};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::{Error, Result};
use crate::format::table;
use crate::{SnapshotId, Store};

/// A named image.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Image {
    /// Its canonical name: `docker.io/library/app:latest`.
    pub name: String,
    /// The manifest or index.
    #[serde(with = "as_json")]
    pub target: Descriptor,
    /// When it was named, milliseconds since 1970.
    pub created: u64,
    /// Every blob of it: index, manifests, configurations, layers.
    pub blobs: Vec<Digest>,
    /// Top snapshots whose layers it can be read from.
    pub snapshots: Vec<SnapshotId>,
}

// A descriptor leaves empty fields out, which a format without field names cannot read back: keep it as JSON.
mod as_json {
    use super::{Descriptor, Deserialize, Deserializer, Serialize, Serializer};
    use serde::{de, ser};

    pub(super) fn serialize<S: Serializer>(target: &Descriptor, serializer: S) -> Result<S::Ok, S::Error> {
        serde_json::to_string(target).map_err(ser::Error::custom)?.serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Descriptor, D::Error> {
        serde_json::from_str(&String::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

/// See [`Store::images`].
pub struct Images<'a>(pub(crate) &'a Store);

impl Images<'_> {
    /// Names an image; a name that was taken moves.
    pub fn set(&self, image: &Image) -> Result<()> {
        self.0.write(|batch| batch.put(&table::IMAGES, &image.name, image))
    }

    /// The image of a canonical name.
    pub fn get(&self, name: &str) -> Result<Option<Image>> {
        self.0.0.meta.get(&table::IMAGES, &name.to_owned())
    }

    /// Gives the image `name` the further name `new`.
    pub fn tag(&self, name: &str, new: &str) -> Result<()> {
        let mut image = self.get(name)?.ok_or_else(|| not_found(name))?;
        new.clone_into(&mut image.name);
        self.set(&image)
    }

    /// All images by name.
    pub fn list(&self) -> Result<Vec<Image>> {
        let rows = self.0.0.meta.rows()?.list(&table::IMAGES, &[])?;
        Ok(rows.into_iter().map(|(_, image)| image).collect())
    }

    /// Takes the name away; its blobs go when the collector finds that nothing else keeps them.
    pub fn remove(&self, name: &str) -> Result<()> {
        let key = name.to_owned();
        self.0.write(|batch| {
            batch.get(&table::IMAGES, &key)?.ok_or_else(|| not_found(name))?;
            batch.delete(&table::IMAGES, &key);
            Ok(())
        })
    }
}

fn not_found(name: &str) -> Error {
    Error::NotFound { kind: "image", name: name.to_owned() }
}
