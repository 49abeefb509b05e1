//! Every name that a registry puts into its storage, in one place. The same names are paths on a disk and keys in a bucket.
//! Whoever changes the meaning of one raises [`VERSION`].
//!
//! ```text
//! <root>/
//!   format                                   "larder registry 1": another number is another registry, and refused
//!   lock                                     flock of the one process that serves it; its text says who
//!   token-key                                key that signs tokens
//!   blobs/<algorithm>/<2 digits>/<digits>    immutable bytes, manifests included
//!   repositories/<name>/_blobs/<algorithm>/<digits>      empty: the repository has this blob
//!   repositories/<name>/_manifests/<algorithm>/<digits>  media type: the repository has this manifest
//!   repositories/<name>/_tags/<tag>                      digest that the tag points to
//!   repositories/<name>/_referrers/<subject>/<manifest>  descriptor (JSON) of a manifest with that subject
//!   repositories/<name>/_pulls/<tag>                     empty: when the tag was last pulled
//!   repositories/<name>/_superseded/<manifest>           empty: a joined cache that another one has replaced
//!   uploads/<id>/{repository,data}           uploads that go on, on this disk even if the storage is a bucket
//!   tmp/<id>                                 files being written; whatever is here at start is left over
//! ```

use super::digest::{Algorithm, ContentDigest};
use super::name::{Repository, Tag};

/// Version of the tree above.
pub const VERSION: u32 = 1;
/// The text of the file `format`, before the number.
pub const FORMAT_TEXT: &str = "larder registry ";
/// The file that holds [`VERSION`].
pub const FORMAT: &str = "format";
/// The lock file.
pub const LOCK: &str = "lock";
/// Key that signs tokens.
pub const TOKEN_KEY: &str = "token-key";
/// Uploads that go on.
pub const UPLOADS: &str = "uploads";
/// Files being written.
pub const TMP: &str = "tmp";
/// Bytes by digest.
pub const BLOBS: &str = "blobs";
/// Repositories.
pub const REPOSITORIES: &str = "repositories";

/// Bytes by digest.
pub fn blob(digest: &ContentDigest) -> String {
    format!("{}/{}", blobs(digest.algorithm(), &digest.hex()[..2]), digest.hex())
}

/// The folder of the blobs whose digits begin with these two.
pub fn blobs(algorithm: Algorithm, two: &str) -> String {
    format!("{BLOBS}/{}/{two}", algorithm.word())
}

/// The folder of the folders of [`blobs`].
pub fn all_blobs(algorithm: Algorithm) -> String {
    format!("{BLOBS}/{}", algorithm.word())
}

/// A repository's folder.
pub fn repository(name: &Repository) -> String {
    format!("{REPOSITORIES}/{name}")
}

/// That a repository has a blob.
pub fn link(name: &Repository, digest: &ContentDigest) -> String {
    format!("{}/{}", links(name, digest.algorithm()), digest.hex())
}

/// The folder of [`link`].
pub fn links(name: &Repository, algorithm: Algorithm) -> String {
    format!("{REPOSITORIES}/{name}/_blobs/{}", algorithm.word())
}

/// That a repository has a manifest.
pub fn manifest(name: &Repository, digest: &ContentDigest) -> String {
    format!("{}/{}", manifests(name, digest.algorithm()), digest.hex())
}

/// The folder of [`manifest`].
pub fn manifests(name: &Repository, algorithm: Algorithm) -> String {
    format!("{REPOSITORIES}/{name}/_manifests/{}", algorithm.word())
}

/// A tag.
pub fn tag(name: &Repository, tag: &Tag) -> String {
    format!("{}/{tag}", tags(name))
}

/// The folder of [`tag`].
pub fn tags(name: &Repository) -> String {
    format!("{REPOSITORIES}/{name}/_tags")
}

/// That a manifest has a subject.
pub fn referrer(name: &Repository, subject: &ContentDigest, manifest: &ContentDigest) -> String {
    format!("{}/{}", referrers(name, subject), dashed(manifest))
}

/// The folder of [`referrer`].
pub fn referrers(name: &Repository, subject: &ContentDigest) -> String {
    format!("{REPOSITORIES}/{name}/_referrers/{}", dashed(subject))
}

/// That a manifest was replaced by one that has everything that it had.
pub fn superseded(name: &Repository, manifest: &ContentDigest) -> String {
    format!("{}/{}", all_superseded(name), dashed(manifest))
}

/// The folder of [`superseded`].
pub fn all_superseded(name: &Repository) -> String {
    format!("{REPOSITORIES}/{name}/_superseded")
}

/// Reads [`dashed`].
pub fn parse_dashed(text: &str) -> Option<ContentDigest> {
    let (word, hex) = text.split_once('-')?;
    ContentDigest::from_parts(Algorithm::parse(word)?, hex)
}

/// When a tag was last pulled.
pub fn pull(name: &Repository, tag: &Tag) -> String {
    format!("{}/{tag}", pulls(name))
}

/// The folder of [`pull`].
pub fn pulls(name: &Repository) -> String {
    format!("{REPOSITORIES}/{name}/_pulls")
}

/// A digest without its colon.
pub fn dashed(digest: &ContentDigest) -> String {
    format!("{}-{}", digest.algorithm().word(), digest.hex())
}
