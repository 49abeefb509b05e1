//! Entries of a tree as fsutil's messages, and modes between Unix and Go.

use proto::files::Stat;
use store::view::{Kind, Node};

/// Go's `os.FileMode` bits that say what an entry is.
pub const DIR: u32 = 1 << 31;
/// A symbolic link.
pub const SYMLINK: u32 = 1 << 27;
/// A device, of either kind.
pub const DEVICE: u32 = 1 << 26;
/// A named pipe.
pub const FIFO: u32 = 1 << 25;
/// A socket.
pub const SOCKET: u32 = 1 << 24;
/// Beside [`DEVICE`].
pub const CHARACTER: u32 = 1 << 21;
/// Go's bits for set-user-id, set-group-id and sticky, with Unix'.
const SPECIAL: [(u32, u32); 3] = [(1 << 23, 0o4000), (1 << 22, 0o2000), (1 << 20, 0o1000)];

/// Unix permissions of a Go mode.
pub fn permissions(go: u32) -> u32 {
    SPECIAL.into_iter().filter(|(bit, _)| go & bit != 0).fold(go & 0o777, |mode, (_, unix)| mode | unix)
}

/// An entry under `path`. Attributes that can't be read are left out.
pub fn message(node: &Node, path: String) -> Stat {
    let kind = match node.kind {
        Kind::File => 0,
        Kind::Dir => DIR,
        Kind::Link => SYMLINK,
        Kind::Char => DEVICE | CHARACTER,
        Kind::Block => DEVICE,
        Kind::Fifo => FIFO,
        Kind::Socket => SOCKET,
    };
    let special = SPECIAL.into_iter().filter(|(_, unix)| node.mode & unix != 0).fold(0, |go, (bit, _)| go | bit);
    Stat {
        path,
        mode: kind | special | node.mode & 0o777,
        uid: node.uid,
        gid: node.gid,
        size: if node.kind == Kind::File { i64::try_from(node.size).unwrap_or(i64::MAX) } else { 0 },
        mod_time: node.mtime,
        linkname: node.link.to_string_lossy().into_owned(),
        devmajor: i64::from(rustix::fs::major(node.rdev)),
        devminor: i64::from(rustix::fs::minor(node.rdev)),
        xattrs: node.xattrs().unwrap_or_default().into_iter().collect(),
    }
}
