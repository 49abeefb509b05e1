//! `--output`: files, directories, standard output, or the Docker engine on this machine.
//! A file appears under its name only when it is whole.

use std::io::{self, Seek, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

use builder::session::{Draft, Error, Folder, Output, Sink};
use store::layer::Owners;

/// Where one output goes on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// Nowhere here: the exporter writes to the store or a registry.
    None,
    /// A file.
    File(PathBuf),
    /// A directory.
    Directory(PathBuf),
    /// Standard output.
    Standard,
    /// `docker load`.
    DockerLoad,
}

impl Destination {
    /// Opens it for an exporter. `owners`: whose the files of a directory become.
    pub fn open(&self, owners: Owners) -> Result<Sink, Error> {
        match self {
            Destination::None => Err(Error::Other("this output has no destination on the client's side".into())),
            Destination::File(path) => Ok(Sink::Stream(Box::new(WholeFile::create(path)?))),
            Destination::Directory(path) => {
                let made = std::fs::create_dir_all(path);
                made.map_err(|source| Error::Write { path: path.clone(), source })?;
                Ok(Sink::Directory(Box::new(InPlace { path: path.clone(), owners })))
            }
            Destination::Standard => Ok(Sink::Stream(Box::new(StandardOutput))),
            Destination::DockerLoad => Ok(Sink::Stream(Box::new(DockerLoad::start()?))),
        }
    }

    /// The file that it is, to be written in any order.
    pub fn draft(&self) -> Result<Option<Box<dyn Draft>>, Error> {
        let Destination::File(path) = self else { return Ok(None) };
        let file = WholeFile::create(path)?;
        // What is written in place may be a pipe.
        Ok(if file.temporary.is_some() { Some(Box::new(file)) } else { None })
    }
}

/// Tells temporary names of one process apart.
static TEMPORARY: AtomicU64 = AtomicU64::new(0);

/// Written beside its name and renamed when whole; removed when dropped before.
pub struct WholeFile {
    file: io::BufWriter<std::fs::File>,
    temporary: Option<PathBuf>,
    path: PathBuf,
}

impl WholeFile {
    pub fn create(path: &Path) -> Result<WholeFile, Error> {
        let error = |source| Error::Write { path: path.to_owned(), source };
        if let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
            std::fs::create_dir_all(parent).map_err(error)?;
        }
        // A device or a pipe (`/dev/null`) is written in place: renaming over it would replace it.
        if path.exists() && !path.is_file() {
            let file = std::fs::OpenOptions::new().write(true).open(path).map_err(error)?;
            return Ok(WholeFile { file: buffered(file), temporary: None, path: path.to_owned() });
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let count = TEMPORARY.fetch_add(1, Ordering::Relaxed);
        let temporary = path.with_file_name(format!(".{name}.larder-{}-{count}", std::process::id()));
        let file = std::fs::File::create(&temporary).map_err(error)?;
        Ok(WholeFile { file: buffered(file), temporary: Some(temporary), path: path.to_owned() })
    }
}

/// Archives come in pieces of 8 KiB and less: one call to the kernel for many. Larger pieces pass as they are.
fn buffered(file: std::fs::File) -> io::BufWriter<std::fs::File> {
    io::BufWriter::with_capacity(256 << 10, file)
}

impl Write for WholeFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Output for WholeFile {
    fn finish(mut self: Box<Self>) -> io::Result<()> {
        self.file.flush()?;
        if let Some(temporary) = &self.temporary {
            put_in_place(temporary, &self.path)?;
            self.temporary = None;
        }
        Ok(())
    }
}

impl Draft for WholeFile {
    fn amend(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.flush()?;
        self.file.get_ref().write_all_at(bytes, at)
    }
    fn cut(&mut self, at: u64) -> io::Result<()> {
        self.file.seek(io::SeekFrom::Start(at))?;
        self.file.get_ref().set_len(at)
    }
}

/// Gives a file its name, which another may have. Some file systems (ext4's `auto_da_alloc`) write a whole new file to the
/// disk before a rename that replaces another returns; one for the other is as atomic, and waits for nothing.
fn put_in_place(file: &Path, name: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    match renameat_with(CWD, file, CWD, name, RenameFlags::EXCHANGE) {
        Ok(()) => std::fs::remove_file(file),
        // There is no other, or the file system knows no exchange.
        Err(_) => std::fs::rename(file, name),
    }
}

impl Drop for WholeFile {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            let _ = std::fs::remove_file(temporary); // the build failed already: what remains is only litter
        }
    }
}

/// A directory that is written where it is to be.
struct InPlace {
    path: PathBuf,
    owners: Owners,
}

impl Folder for InPlace {
    fn path(&self) -> &Path {
        &self.path
    }
    fn owners(&self) -> Owners {
        self.owners
    }
    fn finish(self: Box<Self>) -> io::Result<()> {
        Ok(())
    }
}

struct StandardOutput;

impl Write for StandardOutput {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        io::stdout().write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        io::stdout().flush()
    }
}

impl Output for StandardOutput {
    fn finish(self: Box<Self>) -> io::Result<()> {
        io::stdout().flush()
    }
}

struct DockerLoad {
    child: Child,
}

impl DockerLoad {
    fn start() -> Result<DockerLoad, Error> {
        let mut command = Command::new("docker");
        command.arg("load").stdin(Stdio::piped()).stdout(Stdio::null());
        let child = command.spawn().map_err(|e| {
            Error::Other(format!(
                "--load needs Docker's client, which can't be started ({e}): use -o type=docker,dest=FILE"
            ))
        })?;
        Ok(DockerLoad { child })
    }
}

impl Write for DockerLoad {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.child.stdin {
            Some(pipe) => pipe.write(bytes).map_err(|error| match error.kind() {
                // It has said why on standard error.
                io::ErrorKind::BrokenPipe => io::Error::other("docker load failed"),
                _ => error,
            }),
            None => Err(io::Error::other("docker load takes no more")),
        }
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Output for DockerLoad {
    fn finish(mut self: Box<Self>) -> io::Result<()> {
        self.child.stdin = None;
        let status = self.child.wait()?;
        if status.success() { Ok(()) } else { Err(io::Error::other(format!("docker load failed ({status})"))) }
    }
}

impl Drop for DockerLoad {
    fn drop(&mut self) {
        let _ = self.child.kill(); // a finished load is gone already; an unfinished one must not take half an image
        let _ = self.child.wait();
    }
}
