//! The content of one file as it comes: written anew, or held against what the mirror has, which stays when it is the
//! same. A file is replaced, never changed in place: layers may have it under another name.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// See the module.
pub struct Content {
    path: PathBuf,
    state: State,
}

enum State {
    /// Nothing came yet, and nothing is at the path.
    Nothing,
    /// So many bytes came, and the file that is there begins with them.
    Same(File, u64),
    /// The file that is being written.
    New(File),
}

impl Content {
    /// For a path where nothing is.
    pub fn new(path: PathBuf) -> Content {
        Content { path, state: State::Nothing }
    }

    /// For a path where a file is that may be the same.
    pub fn compared(path: PathBuf) -> io::Result<Content> {
        let old = File::open(&path)?;
        Ok(Content { path, state: State::Same(old, 0) })
    }

    /// Where it goes.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Takes the next bytes.
    pub fn take(&mut self, data: &[u8]) -> io::Result<()> {
        if let State::Same(old, length) = &mut self.state {
            let mut there = vec![0; data.len()];
            match old.read_exact(&mut there) {
                Ok(()) if there == data => {
                    *length += data.len() as u64;
                    return Ok(());
                }
                Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => return Err(error),
                _ => {}
            }
        }
        self.begin()?.write_all(data)
    }

    /// The file that is written, made now if it is not: what came so far is in it.
    pub fn begin(&mut self) -> io::Result<&mut File> {
        if !matches!(self.state, State::New(_)) {
            if let State::Same(..) = self.state {
                fs::remove_file(&self.path)?;
            }
            let mut options = OpenOptions::new();
            let flags = rustix::fs::OFlags::NOFOLLOW.bits() as i32;
            let mut file = options.write(true).create_new(true).mode(0o600).custom_flags(flags).open(&self.path)?;
            if let State::Same(old, length) = &mut self.state {
                io::Seek::rewind(old)?;
                io::copy(&mut old.take(*length), &mut file)?;
            }
            self.state = State::New(file);
        }
        match &mut self.state {
            State::New(file) => Ok(file),
            _ => Err(io::Error::other("a file that was begun is not open")),
        }
    }

    /// Everything came: the new file, or `None` when the one that was there is the same.
    pub fn finish(mut self) -> io::Result<Option<File>> {
        if let State::Same(old, length) = &self.state
            && old.metadata()?.len() == *length
        {
            return Ok(None);
        }
        self.begin()?;
        match self.state {
            State::New(file) => Ok(Some(file)),
            _ => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn what_is_the_same_stays_and_what_differs_is_a_new_file() {
        let dir = tempfile::tempdir().unwrap();
        for (parts, stays) in
            [(vec!["ab", "cd"], true), (vec!["ab", "cX"], false), (vec!["ab"], false), (vec!["abcd", "e"], false)]
        {
            let path = dir.path().join("file");
            fs::write(&path, "abcd").unwrap();
            fs::hard_link(&path, dir.path().join("layer")).unwrap();
            let before = fs::metadata(&path).unwrap().ino();
            let mut content = Content::compared(path.clone()).unwrap();
            parts.iter().for_each(|part| content.take(part.as_bytes()).unwrap());
            assert_eq!(content.finish().unwrap().is_none(), stays);
            assert_eq!(fs::read_to_string(&path).unwrap(), parts.concat());
            assert_eq!(fs::metadata(&path).unwrap().ino() == before, stays);
            assert_eq!(fs::read_to_string(dir.path().join("layer")).unwrap(), "abcd");
            fs::remove_file(dir.path().join("layer")).unwrap();
            fs::remove_file(&path).unwrap();
        }
    }

    #[test]
    fn an_empty_answer_is_an_empty_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        assert!(Content::new(path.clone()).finish().unwrap().is_some());
        assert_eq!(fs::read(&path).unwrap(), b"");
    }
}
