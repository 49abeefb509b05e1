//! A client on the same machine that is the daemon's own user: its directories are read where they are, as in a build
//! without a daemon. Whoever may not read the same files in the same way is synced with, like any other client.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tonic::Extensions;
use tonic::transport::server::UdsConnectInfo;

/// The session header in which a client tells where it is.
pub const HEADER: &str = "larder-session-nearby";

/// Where a client is, and its directories there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nearby {
    /// The client's mount namespace and root: paths mean the same only within one.
    place: String,
    /// Names the project, as a build without a daemon does.
    pub project: String,
    /// Directories by name.
    pub directories: BTreeMap<String, PathBuf>,
}

impl Nearby {
    /// This process' own.
    pub fn here(project: String, directories: BTreeMap<String, PathBuf>) -> Nearby {
        Nearby { place: place().unwrap_or_default(), project, directories }
    }

    /// As a header: JSON without anything but ASCII.
    pub fn header(&self) -> String {
        let text = serde_json::to_string(self).unwrap_or_default();
        text.chars().fold(String::new(), |mut out, c| {
            let mut units = [0; 2];
            match c {
                ' '..='~' => out.push(c),
                c => c.encode_utf16(&mut units).iter().for_each(|unit| out.push_str(&format!("\\u{unit:04x}"))),
            }
            out
        })
    }

    /// The client of a connection, if this process may take it at its word: it is on this machine, sees the same files
    /// at the same paths, and may do no less than this process.
    pub fn of(header: &str, connection: &Extensions) -> Option<Nearby> {
        let peer = connection.get::<UdsConnectInfo>()?.peer_cred?;
        if peer.uid() != rustix::process::geteuid().as_raw() {
            return None;
        }
        let told: Nearby = serde_json::from_str(header).ok()?;
        (Some(&told.place) == place().as_ref() && !told.place.is_empty()).then_some(told)
    }

    /// A directory by its name, as long as it is there.
    pub fn directory(&self, name: &str) -> Option<&Path> {
        self.directories.get(name).map(PathBuf::as_path).filter(|path| path.is_absolute() && path.is_dir())
    }
}

/// Mount namespace, and device and inode of the root directory.
fn place() -> Option<String> {
    use std::os::unix::fs::MetadataExt;
    let namespace = std::fs::read_link("/proc/self/ns/mnt").ok()?;
    let root = std::fs::metadata("/").ok()?;
    Some(format!("{} {}:{}", namespace.display(), root.dev(), root.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_ascii_and_reads_back() {
        let directories = BTreeMap::from([("context".to_owned(), PathBuf::from("/wörk/🦀 x"))]);
        let told = Nearby::here("/wörk".to_owned(), directories);
        let header = told.header();
        assert!(header.bytes().all(|b| (0x20..0x7f).contains(&b)), "{header}");
        assert_eq!(serde_json::from_str::<Nearby>(&header).unwrap(), told);
    }

    #[test]
    fn nobody_is_near_without_a_socket_that_says_who_he_is() {
        let told = Nearby::here(String::new(), BTreeMap::new());
        assert_eq!(Nearby::of(&told.header(), &Extensions::default()), None);
    }
}
