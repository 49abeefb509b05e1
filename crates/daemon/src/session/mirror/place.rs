//! Files and folders of a mirror as the file system has them: what a folder holds, and what a file that was written gets.
//! Nothing here knows of a transfer.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use proto::files::Stat;
use rustix::fs::{Timespec, Timestamps, UTIME_OMIT, XattrFlags};

use crate::stat::permissions;

/// Owner, mode, attributes and time of a file that was written.
pub fn dress_file(file: &File, stat: &Stat) -> io::Result<()> {
    if stat.uid != 0 || stat.gid != 0 {
        std::os::unix::fs::fchown(file, Some(stat.uid), Some(stat.gid))?;
    }
    file.set_permissions(std::fs::Permissions::from_mode(permissions(stat.mode)))?;
    for (name, value) in &stat.xattrs {
        rustix::fs::fsetxattr(file, name.as_str(), value, XattrFlags::empty())?;
    }
    Ok(rustix::fs::futimens(file, &times(stat.mod_time))?)
}

/// Only the time of modification is set.
pub fn times(nanos: i64) -> Timestamps {
    let time = Timespec { tv_sec: nanos.div_euclid(1_000_000_000), tv_nsec: nanos.rem_euclid(1_000_000_000) };
    let omit = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
    Timestamps { last_access: omit, last_modification: time }
}

/// The time of modification, nanoseconds since 1970.
pub fn nanos(data: &Metadata) -> i64 {
    data.mtime() * 1_000_000_000 + data.mtime_nsec()
}

/// What is in a folder of the mirror, each looked up in the open folder.
pub fn list(folder: &Path) -> io::Result<HashMap<OsString, Metadata>> {
    let entry = |entry: io::Result<std::fs::DirEntry>| {
        let entry = entry?;
        Ok((entry.file_name(), entry.metadata()?))
    };
    std::fs::read_dir(folder)?.map(entry).collect()
}
