//! A tar on its way to whoever reads it, whose headers may not be of any size: long names and attributes wait in memory, and a
//! few bytes of a compressed archive can say gigabytes of them. Content passes through as it is.

use std::io::{self, Read};

use tar::{EntryType, Header};

/// Bytes of one entry's name, link name or attributes at most.
const LARGEST: u64 = 1 << 20;
const BLOCK: usize = 512;

/// See the module.
pub struct Modest<R> {
    inner: R,
    state: State,
    /// Attributes for the next entry: one of them may say its true size.
    pax: Vec<u8>,
}

enum State {
    /// In the middle of a header, of which this is there.
    Header(Vec<u8>),
    /// In the middle of what continues a header of a sparse file; then content of this size comes.
    Continued(Vec<u8>, u64),
    /// So many bytes of content with its padding are left; they are kept when they are attributes.
    Content { left: u64, kept: bool },
    /// A header that nobody can read: whoever reads the archive will say so.
    Lost,
}

impl<R: Read> Modest<R> {
    /// In front of a reader of archives.
    pub fn new(inner: R) -> Modest<R> {
        Modest { inner, state: State::Header(Vec::with_capacity(BLOCK)), pax: Vec::new() }
    }

    /// Follows the bytes that pass.
    fn follow(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match &mut self.state {
                State::Lost => return Ok(()),
                State::Content { left, kept } => {
                    let taken = bytes.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                    if *kept {
                        self.pax.extend(&bytes[..taken]);
                    }
                    *left -= taken as u64;
                    bytes = &bytes[taken..];
                    if *left == 0 {
                        self.state = State::Header(Vec::with_capacity(BLOCK));
                    }
                }
                State::Header(block) | State::Continued(block, _) => {
                    let taken = bytes.len().min(BLOCK - block.len());
                    block.extend(&bytes[..taken]);
                    bytes = &bytes[taken..];
                    if block.len() == BLOCK {
                        self.state = self.next()?;
                    }
                }
            }
        }
        Ok(())
    }

    /// What comes after a whole block.
    fn next(&mut self) -> io::Result<State> {
        let fresh = || State::Header(Vec::with_capacity(BLOCK));
        let state = std::mem::replace(&mut self.state, State::Lost);
        let block = match state {
            State::Continued(block, size) if block[504] != 0 => return Ok(State::Continued(Vec::new(), size)),
            State::Continued(_, size) => return Ok(content(size, false)),
            State::Header(block) => block,
            other => return Ok(other),
        };
        if block.iter().all(|byte| *byte == 0) {
            return Ok(fresh());
        }
        let header = Header::from_byte_slice(&block);
        let Ok(said) = header.entry_size() else { return Ok(State::Lost) };
        match header.entry_type() {
            EntryType::XHeader | EntryType::XGlobalHeader | EntryType::GNULongName | EntryType::GNULongLink => {
                if said > LARGEST {
                    let text = format!("the archive has a header of {said} bytes, more than {LARGEST}");
                    return Err(io::Error::new(io::ErrorKind::InvalidData, text));
                }
                let is_local = header.entry_type() == EntryType::XHeader;
                if is_local {
                    self.pax.clear();
                }
                Ok(if said == 0 { fresh() } else { content(said, is_local) })
            }
            kind => {
                let size = size_in(&std::mem::take(&mut self.pax)).unwrap_or(said);
                let is_continued = kind == EntryType::GNUSparse && block[482] != 0;
                Ok(if is_continued { State::Continued(Vec::new(), size) } else { content(size, false) })
            }
        }
    }
}

fn content(size: u64, kept: bool) -> State {
    match size.checked_next_multiple_of(BLOCK as u64) {
        None => State::Lost,
        Some(0) => State::Header(Vec::with_capacity(BLOCK)),
        Some(left) => State::Content { left, kept },
    }
}

/// The size that attributes say, if they say one.
fn size_in(pax: &[u8]) -> Option<u64> {
    let records = pax.split(|byte| *byte == b'\n').filter_map(|line| std::str::from_utf8(line).ok());
    let mut sizes = records.filter_map(|line| line.split_once(' ')?.1.strip_prefix("size=")?.parse().ok());
    sizes.next_back()
}

impl<R: Read> Read for Modest<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.follow(&buffer[..length])?;
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(kind: EntryType, size: u64, content: &[u8]) -> Vec<u8> {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(size);
        header.set_cksum();
        let mut bytes = [header.as_bytes() as &[u8], content].concat();
        bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
        bytes
    }

    fn read(bytes: &[u8]) -> io::Result<usize> {
        // Pieces of an odd size: a header may come in several.
        let (mut modest, mut buffer, mut total) = (Modest::new(bytes), [0; 77], 0);
        loop {
            match modest.read(&mut buffer)? {
                0 => return Ok(total),
                length => total += length,
            }
        }
    }

    #[test]
    fn headers_are_bounded_and_content_is_not() {
        let file = entry(EntryType::Regular, 2000, &[b'x'; 2000]);
        let pax = entry(EntryType::XHeader, 16, b"16 size=2000\nxxx");
        // Its header says less than its attributes: what follows is found all the same.
        let other = entry(EntryType::Regular, 3, &[b'y'; 2000]);
        let long = entry(EntryType::GNULongName, LARGEST + 1, b"");
        let good = [file.clone(), pax, other, file].concat();
        assert_eq!(read(&good).unwrap(), good.len());
        for kind in [EntryType::GNULongName, EntryType::GNULongLink, EntryType::XHeader, EntryType::XGlobalHeader] {
            let bad = [good.clone(), entry(kind, LARGEST + 1, b"")].concat();
            assert!(read(&bad).unwrap_err().to_string().contains("header of 1048577 bytes"), "{kind:?}");
        }
        // What looks like a header inside of a file is none.
        let inside = entry(EntryType::Regular, long.len() as u64, &long);
        assert_eq!(read(&inside).unwrap(), inside.len());
    }
}
