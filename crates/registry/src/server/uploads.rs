//! Uploads that go on: a file that grows, digested as it does. One that a killed process left goes on where its file ends.
//! An upload is nothing that can be pulled; it becomes a blob in [`Upload::finish`], or goes.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use hyper::body::Bytes;

use super::digest::{Algorithm, ContentDigest, Hashing};
use super::disk::at;
use super::name::Repository;
use super::{format, millis, random};

/// All uploads of a registry.
#[derive(Debug)]
pub struct Uploads {
    folder: PathBuf,
    open: Mutex<HashMap<String, Arc<Upload>>>,
}

/// One upload.
#[derive(Debug)]
pub struct Upload {
    /// Its id, a UUID.
    pub id: String,
    /// The repository that it is for.
    pub repository: Repository,
    folder: PathBuf,
    /// Held by the request that writes.
    pub turn: Arc<tokio::sync::Mutex<()>>,
    data: Mutex<Data>,
}

#[derive(Debug)]
struct Data {
    file: File,
    size: u64,
    hashing: Hashing,
}

impl std::fmt::Debug for Hashing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Hashing({})", self.algorithm().word())
    }
}

impl Uploads {
    /// The uploads of a registry in this folder.
    pub fn new(root: &Path) -> Uploads {
        Uploads { folder: root.join(format::UPLOADS), open: Mutex::default() }
    }

    fn open(&self) -> MutexGuard<'_, HashMap<String, Arc<Upload>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts an upload. Blocks.
    pub fn start(&self, repository: &Repository, algorithm: Algorithm) -> io::Result<Arc<Upload>> {
        let id = uuid()?;
        let folder = self.folder.join(&id);
        fs::create_dir_all(&folder).map_err(|error| at("make", &folder, error))?;
        fs::write(folder.join("repository"), repository.as_str()).map_err(|error| at("write", &folder, error))?;
        let path = folder.join("data");
        let file = File::options().read(true).write(true).create_new(true).open(&path);
        let file = file.map_err(|error| at("make", &path, error))?;
        let data = Mutex::new(Data { file, size: 0, hashing: Hashing::new(algorithm) });
        Ok(self.remember(Upload { id, repository: repository.clone(), folder, turn: Arc::default(), data }))
    }

    /// The upload of an id; one that an earlier process began is read through. Blocks.
    pub fn find(&self, repository: &Repository, id: &str) -> io::Result<Option<Arc<Upload>>> {
        let known = self.open().get(id).cloned();
        let found = match known {
            Some(upload) => Some(upload),
            None => self.resume(id)?,
        };
        Ok(found.filter(|upload| upload.repository == *repository))
    }

    fn resume(&self, id: &str) -> io::Result<Option<Arc<Upload>>> {
        if !is_uuid(id) {
            return Ok(None);
        }
        let folder = self.folder.join(id);
        let Ok(name) = fs::read_to_string(folder.join("repository")) else { return Ok(None) };
        let Ok(repository) = Repository::parse(&name) else { return Ok(None) };
        let path = folder.join("data");
        let mut file = match File::options().read(true).write(true).open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file.map_err(|error| at("open", &path, error))?,
        };
        let hashed = hash(&mut file, Algorithm::Sha256);
        let (hashing, size) = hashed.map_err(|error| at("read", &path, error))?;
        let data = Mutex::new(Data { file, size, hashing });
        Ok(Some(self.remember(Upload { id: id.to_owned(), repository, folder, turn: Arc::default(), data })))
    }

    /// Keeps the first of two that were made for one id.
    fn remember(&self, upload: Upload) -> Arc<Upload> {
        self.open().entry(upload.id.clone()).or_insert_with(|| Arc::new(upload)).clone()
    }

    /// Ends an upload, whatever became of it. Blocks.
    pub fn end(&self, upload: &Upload) -> io::Result<()> {
        self.open().remove(&upload.id);
        match fs::remove_dir_all(&upload.folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at("remove", &upload.folder, error)),
            _ => Ok(()),
        }
    }

    /// Ends what nobody has written to for `age`; says how many. Blocks.
    pub fn expire(&self, age: Duration) -> io::Result<usize> {
        let list = match fs::read_dir(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
            list => list.map_err(|error| at("list", &self.folder, error))?,
        };
        let mut ended = 0;
        for found in list {
            let path = found.map_err(|error| at("list", &self.folder, error))?.path();
            let written = fs::metadata(path.join("data")).or_else(|_| fs::metadata(&path)).and_then(|d| d.modified());
            let old =
                |time: SystemTime| millis(SystemTime::now()).saturating_sub(millis(time)) > age.as_millis() as u64;
            let id = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            // A request that holds its turn is at it, however slow.
            let busy = self.open().get(&id).is_some_and(|upload| upload.turn.try_lock().is_err());
            if written.is_ok_and(old) && !busy {
                self.open().remove(&id);
                fs::remove_dir_all(&path).map_err(|error| at("remove", &path, error))?;
                ended += 1;
            }
        }
        Ok(ended)
    }
}

impl Upload {
    fn data(&self) -> MutexGuard<'_, Data> {
        self.data.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes received.
    pub fn size(&self) -> u64 {
        self.data().size
    }

    /// Adds bytes at the end. Blocks.
    pub fn append(&self, pieces: &[Bytes]) -> io::Result<()> {
        let mut data = self.data();
        let Data { file, size, hashing } = &mut *data;
        for piece in pieces {
            // What a failed write left behind `size` is written over by the next.
            file.write_all_at(piece, *size).map_err(|error| at("write", &self.folder, error))?;
            hashing.update(piece);
            *size += piece.len() as u64;
        }
        Ok(())
    }

    /// Syncs the file if its bytes are those of `digest` and says where it is; `Err(Ok(found))` when they are others. Blocks.
    pub fn finish(&self, digest: &ContentDigest) -> Result<PathBuf, io::Result<ContentDigest>> {
        let mut data = self.data();
        let path = self.folder.join("data");
        let failed = |error| Err(at("finish", &path, error));
        if data.hashing.algorithm() != digest.algorithm() {
            data.hashing = hash(&mut data.file, digest.algorithm()).map_err(failed)?.0;
        }
        let found = data.hashing.clone().finish();
        if found != *digest {
            return Err(Ok(found));
        }
        // A failed write may have left more than counts.
        data.file.set_len(data.size).map_err(failed)?;
        // Old bytes are a young blob.
        data.file.set_modified(SystemTime::now()).map_err(failed)?;
        data.file.sync_data().map_err(failed)?;
        Ok(path)
    }
}

/// Digests a file from its start.
pub fn hash(file: &mut File, algorithm: Algorithm) -> io::Result<(Hashing, u64)> {
    io::Seek::rewind(file)?;
    let mut hashing = Hashing::new(algorithm);
    let mut buffer = vec![0; 256 << 10];
    let mut size = 0;
    loop {
        let count = match file.read(&mut buffer) {
            Ok(0) => return Ok((hashing, size)),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            count => count?,
        };
        hashing.update(&buffer[..count]);
        size += count as u64;
    }
}

/// A UUID of version 4 (RFC 9562).
fn uuid() -> io::Result<String> {
    let mut bytes: [u8; 16] = random()?;
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok([&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-"))
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upload_goes_on_in_another_process() {
        let folder = tempfile::tempdir().unwrap();
        let (name, other) = (Repository::parse("a/b").unwrap(), Repository::parse("c").unwrap());
        let id = {
            let uploads = Uploads::new(folder.path());
            let upload = uploads.start(&name, Algorithm::Sha256).unwrap();
            upload.append(&[Bytes::from_static(b"one "), Bytes::from_static(b"two ")]).unwrap();
            upload.id.clone()
        };
        let uploads = Uploads::new(folder.path());
        assert!(uploads.find(&other, &id).unwrap().is_none(), "it is not that repository's");
        assert!(uploads.find(&name, "../../x").unwrap().is_none());
        let upload = uploads.find(&name, &id).unwrap().unwrap();
        assert_eq!(upload.size(), 8);
        upload.append(&[Bytes::from_static(b"three")]).unwrap();
        for algorithm in Algorithm::ALL {
            assert!(upload.finish(&ContentDigest::of(algorithm, b"one two three")).is_ok());
        }
        let wrong = ContentDigest::of(Algorithm::Sha256, b"");
        assert!(matches!(upload.finish(&wrong), Err(Ok(_))));
        assert_eq!(uploads.expire(Duration::from_secs(60)).unwrap(), 0);
        std::thread::sleep(Duration::from_millis(5));
        assert_eq!(uploads.expire(Duration::ZERO).unwrap(), 1);
        assert!(uploads.find(&name, &id).unwrap().is_none());
    }
}
