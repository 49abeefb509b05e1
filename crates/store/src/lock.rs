//! One owner process per store: a flock on `lock`, whose text says who holds it.
//! It never breaks another's lock: the kernel drops it when its process ends, however it ends.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};

use crate::error::{Doing, Error, Result};
use crate::{clock, format};

/// How long to sleep between two tries. Short: a second build starts right after the first ends.
const PAUSE: Duration = Duration::from_millis(10);

/// Who holds a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Process id; 0 when the owner has not written it yet.
    pub pid: u32,
    /// Its command line, words joined by spaces.
    pub command: String,
    /// Since when, milliseconds since 1970.
    pub since: u64,
}

impl std::fmt::Display for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.pid, self.command.as_str()) {
            (0, _) => f.write_str("another process"),
            (pid, "") => write!(f, "process {pid}"),
            (pid, command) => write!(f, "process {pid} (`{command}`)"),
        }
    }
}

impl Owner {
    /// The text of the lock file: one `name: value` a line.
    fn encode(&self) -> String {
        format!("pid: {}\ncommand: {}\nsince: {}\n", self.pid, self.command.replace('\n', " "), self.since)
    }

    /// Reads what [`Owner::encode`] wrote. What is missing stays empty: a lock says who, it does not decide.
    fn decode(text: &str) -> Owner {
        let field = |name: &str| {
            text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).unwrap_or_default().to_owned()
        };
        Owner {
            pid: field("pid").parse().unwrap_or(0),
            command: field("command"),
            since: field("since").parse().unwrap_or(0),
        }
    }
}

/// The held lock. Dropping it lets the next process in.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

/// Takes the lock of the store at `root` as `owner`; calls `on_wait` once for each owner it waits for, and gives up after
/// `give_up` when there is such a time.
pub(crate) fn take(
    root: &Path,
    owner: &Owner,
    give_up: Option<Duration>,
    on_wait: &mut dyn FnMut(&Owner),
) -> Result<Lock> {
    let path = root.join(format::LOCK);
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .doing("open the lock", &path)?;
    let start = Instant::now();
    let mut told: Option<Owner> = None;
    while let Err(error) = flock(&file, FlockOperation::NonBlockingLockExclusive) {
        if error != rustix::io::Errno::WOULDBLOCK && error != rustix::io::Errno::INTR {
            return Err(error).doing("lock", &path);
        }
        let holder = read(&mut file, &path)?;
        if give_up.is_some_and(|limit| start.elapsed() >= limit) {
            return Err(Error::Locked { root: root.to_owned(), owner: holder, waited: start.elapsed() });
        }
        // An owner that has not written its text yet is not worth a message of its own.
        let patient = holder.pid == 0 && start.elapsed() < PAUSE * 10;
        if !patient && told.as_ref() != Some(&holder) {
            on_wait(&holder);
            told = Some(holder);
        }
        std::thread::sleep(PAUSE);
    }
    file.set_len(0).doing("write the lock", &path)?;
    file.rewind().doing("write the lock", &path)?;
    file.write_all(owner.encode().as_bytes()).doing("write the lock", &path)?;
    Ok(Lock { _file: file })
}

impl Drop for Lock {
    fn drop(&mut self) {
        // An empty text says "nobody known": the next process must not report this one as the holder.
        // Failing is harmless, the text only informs.
        let _ = self._file.set_len(0);
    }
}

fn read(file: &mut File, path: &Path) -> Result<Owner> {
    let mut text = String::new();
    file.rewind().doing("read the lock", path)?;
    file.read_to_string(&mut text).doing("read the lock", path)?;
    Ok(Owner::decode(&text))
}

/// This process as an owner.
pub(crate) fn this_process(command: &str) -> Owner {
    Owner { pid: std::process::id(), command: command.to_owned(), since: clock::now() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips() {
        let owner = Owner { pid: 7, command: "larder build -t a: b .".into(), since: 12 };
        assert_eq!(Owner::decode(&owner.encode()), owner);
        assert_eq!(Owner::decode("").to_string(), "another process");
    }
}
