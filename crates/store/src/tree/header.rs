//! The digest of one path: its header, and a file's content (BuildKit's `cache/contenthash`, held against its vectors).
//! The name and the time of a path are no part of it.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;

use oci::{Digest, Hasher};

use super::index::{Changes, Stat};
use crate::error::{Doing, Result};
use crate::view::{Kind, Node};

/// The digest of a path by itself; a directory's entries are not in it.
pub fn digest(node: &Node) -> Result<Digest> {
    let mut hasher = Hasher::new();
    hasher.update(header(node)?);
    if node.kind == Kind::File && node.size > 0 {
        let mut file = File::open(&node.source).doing("read", &node.source)?;
        let mut buffer = vec![0; (node.size as usize).clamp(1, 256 << 10)];
        loop {
            let length = file.read(&mut buffer).doing("read", &node.source)?;
            if length == 0 {
                break;
            }
            hasher.update(&buffer[..length]);
        }
    }
    Ok(hasher.finish())
}

/// A file of a mirror, hashed while its bytes come: what `digest` gives for it, without reading it again. It has no
/// extended attributes, and its owner does not count.
pub struct Coming {
    hasher: Hasher,
    mode: u32,
    size: u64,
}

impl Coming {
    /// A file that is to have these permission bits and so many bytes.
    pub fn new(mode: u32, size: u64) -> Coming {
        let mut hasher = Hasher::new();
        hasher.update(text(mode, (0, 0), size, '0', "", (0, 0)));
        Coming { hasher, mode, size }
    }

    /// Takes the next bytes.
    pub fn take(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
    }

    /// Everything is written into `file`, and nobody changes it any more. `None` when it is not what it was to be.
    pub fn finish(self, file: &File) -> io::Result<Option<(Stat, Digest)>> {
        let data = file.metadata()?;
        let as_said = (data.mode() & 0o7777, data.len()) == (self.mode, self.size);
        Ok(as_said.then(|| (Stat::of(&data, Changes::ByReplacing), self.hasher.finish())))
    }
}

fn text(mode: u32, owner: (u32, u32), size: u64, kind: char, link: &str, device: (u32, u32)) -> String {
    let ((uid, gid), (major, minor)) = (owner, device);
    format!(
        "namemode{mode}uid{uid}gid{gid}size{size}typeflag{kind}linkname{link}unamegnamedevmajor{major}devminor{minor}"
    )
}

fn header(node: &Node) -> Result<Vec<u8>> {
    let (kind, size, mode) = match node.kind {
        Kind::File | Kind::Socket => ('0', node.size, node.mode),
        Kind::Link => ('2', 0, 0o777),
        Kind::Char => ('3', 0, node.mode),
        Kind::Block => ('4', 0, node.mode),
        Kind::Dir => ('5', 0, node.mode),
        Kind::Fifo => ('6', 0, node.mode),
    };
    let is_device = matches!(node.kind, Kind::Char | Kind::Block);
    let device = if is_device { (rustix::fs::major(node.rdev), rustix::fs::minor(node.rdev)) } else { (0, 0) };
    let link = node.link.to_string_lossy();
    let mut text = text(mode, (node.uid, node.gid), size, kind, &link, device).into_bytes();
    for (name, value) in node.xattrs()? {
        if (name.starts_with("security.") && name != "security.capability") || name.starts_with("system.") {
            continue;
        }
        text.extend_from_slice(name.as_bytes());
        text.extend_from_slice(&value);
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn as_buildkit_has_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("foo");
        std::fs::write(&path, "data0").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        let view = crate::view::View::of_dir(dir.path().to_owned());
        let mut node = view.lookup(std::path::Path::new("/foo")).unwrap().unwrap();
        (node.uid, node.gid) = (0, 0);
        assert_eq!(digest(&node).unwrap().hex(), "cd8e75bca50f2d695f220d0cb0997d8ead387e4f926e8669a92d7f104cc9885b");
        let coming = |parts: &[&str], size| {
            let mut coming = Coming::new(0o644, size);
            parts.iter().for_each(|part| coming.take(part.as_bytes()));
            coming.finish(&File::open(&path).unwrap()).unwrap().map(|(_, digest)| digest)
        };
        assert_eq!(coming(&["da", "ta0"], 5), Some(digest(&node).unwrap()));
        assert_eq!(coming(&["data0"], 6), None, "the file has another size than was said");
    }
}
