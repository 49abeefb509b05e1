//! A base image's root file system, made of Debian's busybox-static: small, real, and the same every time.

use std::path::{Path, PathBuf};

/// Where Debian puts the program.
const BUSYBOX: &str = "/bin/busybox";

/// Applets that tests run.
const APPLETS: [&str; 28] = [
    "sh", "ls", "cat", "echo", "mkdir", "touch", "sleep", "true", "false", "wc", "id", "rm", "cp", "mv", "grep", "sed",
    "head", "tail", "seq", "dd", "chmod", "chown", "ln", "pwd", "env", "stat", "find", "date",
];

/// Writes the tar of a root file system into `folder`; `None`, loudly, on a machine without busybox-static.
pub fn tar(folder: &Path) -> Option<PathBuf> {
    let Ok(busybox) = std::fs::read(BUSYBOX) else {
        eprintln!("SKIPPED: {BUSYBOX} is missing (Debian's package busybox-static)");
        return None;
    };
    let path = folder.join("base.tar");
    let mut tar = tar::Builder::new(std::fs::File::create(&path).expect("a tar"));
    let header = |mode: u32, size: usize| {
        let mut header = tar::Header::new_ustar();
        header.set_mode(mode);
        header.set_size(size as u64);
        header.set_mtime(0);
        header.set_uid(0);
        header.set_gid(0);
        header
    };
    for (name, mode) in [("bin/", 0o755), ("etc/", 0o755), ("tmp/", 0o1777), ("root/", 0o700), ("home/", 0o755)] {
        let mut header = header(mode, 0);
        header.set_entry_type(tar::EntryType::Directory);
        tar.append_data(&mut header, name, std::io::empty()).expect("a directory");
    }
    tar.append_data(&mut header(0o755, busybox.len()), "bin/busybox", busybox.as_slice()).expect("busybox");
    for applet in APPLETS {
        let mut header = header(0o777, 0);
        header.set_entry_type(tar::EntryType::Symlink);
        tar.append_link(&mut header, format!("bin/{applet}"), "busybox").expect("a link");
    }
    let users = "root:x:0:0:root:/root:/bin/sh\ncook:x:1000:1000::/home:/bin/sh\n";
    let groups = "root:x:0:\ncook:x:1000:\n";
    for (name, text) in [("etc/passwd", users), ("etc/group", groups)] {
        tar.append_data(&mut header(0o644, text.len()), name, text.as_bytes()).expect("a file");
    }
    tar.finish().expect("the end");
    Some(path)
}
