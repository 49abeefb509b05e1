//! What an image is: digests, references, platforms, descriptors, manifests and configurations, as data.
//! Sources: OCI image-spec v1.1 and distribution-spec v1.1, and Docker's schema 2 where users still have it.
//! Nothing here does I/O: no file is read and no registry is asked.

mod config;
mod digest;
mod manifest;
pub mod media;
mod platform;
mod reference;
pub mod time;

pub use config::{ContainerConfig, History, ImageConfig, RootFs};
pub use digest::{Digest, DigestError, Hasher};
pub use manifest::{Descriptor, Index, Manifest, ManifestOrIndex};
pub use platform::{Platform, PlatformError};
pub use reference::{Reference, ReferenceError, is_repository_component, is_tag};
