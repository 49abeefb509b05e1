//! A tar as OCI layers have it: USTAR headers, PAX records only for what does not fit, no times below a second.
//! It writes a stream of bytes and looks at no file.

use std::io::{self, Write};

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    File,
    HardLink,
    Symlink,
    Char,
    Block,
    Dir,
    Fifo,
}

/// One entry; its content follows the header.
#[derive(Clone, Debug)]
pub struct Entry<'a> {
    pub path: &'a [u8],
    pub kind: Type,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub size: u64,
    /// Seconds since 1970.
    pub mtime: i64,
    pub link: &'a [u8],
    pub device: (u32, u32),
    pub xattrs: &'a [(String, Vec<u8>)],
}

const BLOCK: usize = 512;

/// Writes a header with its PAX records.
pub fn entry(out: &mut dyn Write, entry: &Entry<'_>) -> io::Result<()> {
    let records = pax(entry);
    if !records.is_empty() {
        let name = [b"PaxHeaders.0/".as_slice(), last_part(entry.path)].concat();
        let header = Entry {
            path: &name[..name.len().min(99)],
            kind: Type::File,
            mode: 0o644,
            uid: 0,
            gid: 0,
            size: records.len() as u64,
            mtime: 0,
            link: b"",
            device: (0, 0),
            xattrs: &[],
        };
        out.write_all(&block(&header, b'x'))?;
        out.write_all(&records)?;
        padding(out, records.len() as u64)?;
    }
    let kind = match entry.kind {
        Type::File => b'0',
        Type::HardLink => b'1',
        Type::Symlink => b'2',
        Type::Char => b'3',
        Type::Block => b'4',
        Type::Dir => b'5',
        Type::Fifo => b'6',
    };
    out.write_all(&block(entry, kind))
}

/// Zeros up to the next block.
pub fn padding(out: &mut dyn Write, size: u64) -> io::Result<()> {
    let rest = (size % BLOCK as u64) as usize;
    if rest > 0 { out.write_all(&[0; BLOCK][rest..]) } else { Ok(()) }
}

/// The end of the archive.
pub fn end(out: &mut dyn Write) -> io::Result<()> {
    out.write_all(&[0; 2 * BLOCK])
}

fn last_part(path: &[u8]) -> &[u8] {
    let path = path.strip_suffix(b"/").unwrap_or(path);
    path.rsplit(|b| *b == b'/').next().unwrap_or(path)
}

/// Where a path is cut for USTAR's two fields, if it can be.
fn cut(path: &[u8]) -> Option<(&[u8], &[u8])> {
    if path.len() <= 100 {
        return Some((b"", path));
    }
    let at = path.iter().enumerate().position(|(i, b)| *b == b'/' && i <= 155 && path.len() - i - 1 <= 100);
    at.filter(|i| *i > 0 && *i + 1 < path.len()).map(|i| (&path[..i], &path[i + 1..]))
}

/// The largest number in USTAR's seven octal digits.
const SMALL: u64 = 0o7_777_777;
/// The largest in eleven.
const LARGE: u64 = 0o77_777_777_777;

fn pax(entry: &Entry<'_>) -> Vec<u8> {
    let mut records = Vec::new();
    if u64::from(entry.gid) > SMALL {
        record(&mut records, b"gid", entry.gid.to_string().as_bytes());
    }
    if entry.link.len() > 100 {
        record(&mut records, b"linkpath", entry.link);
    }
    if entry.mtime < 0 || entry.mtime as u64 > LARGE {
        record(&mut records, b"mtime", entry.mtime.to_string().as_bytes());
    }
    if cut(entry.path).is_none() || !entry.path.is_ascii() {
        record(&mut records, b"path", entry.path);
    }
    for (name, value) in entry.xattrs {
        record(&mut records, format!("SCHILY.xattr.{name}").as_bytes(), value);
    }
    if entry.size > LARGE {
        record(&mut records, b"size", entry.size.to_string().as_bytes());
    }
    if u64::from(entry.uid) > SMALL {
        record(&mut records, b"uid", entry.uid.to_string().as_bytes());
    }
    records
}

/// `length name=value\n`, where the length counts itself.
fn record(records: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    let body = name.len() + value.len() + 3;
    let mut length = body + 1;
    while length != body + length.to_string().len() {
        length = body + length.to_string().len();
    }
    records.extend_from_slice(length.to_string().as_bytes());
    records.push(b' ');
    records.extend_from_slice(name);
    records.push(b'=');
    records.extend_from_slice(value);
    records.push(b'\n');
}

fn block(entry: &Entry<'_>, kind: u8) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let (prefix, name) = cut(entry.path).unwrap_or((b"", &entry.path[..100.min(entry.path.len())]));
    block[..name.len()].copy_from_slice(name);
    octal(&mut block[100..108], u64::from(entry.mode), SMALL);
    octal(&mut block[108..116], u64::from(entry.uid), SMALL);
    octal(&mut block[116..124], u64::from(entry.gid), SMALL);
    octal(&mut block[124..136], entry.size, LARGE);
    octal(&mut block[136..148], u64::try_from(entry.mtime).unwrap_or(0), LARGE);
    block[156] = kind;
    let link = &entry.link[..entry.link.len().min(100)];
    block[157..157 + link.len()].copy_from_slice(link);
    block[257..265].copy_from_slice(b"ustar\x0000");
    if matches!(entry.kind, Type::Char | Type::Block) {
        octal(&mut block[329..337], u64::from(entry.device.0), SMALL);
        octal(&mut block[337..345], u64::from(entry.device.1), SMALL);
    }
    block[345..345 + prefix.len()].copy_from_slice(prefix);
    block[148..156].fill(b' ');
    let sum: u64 = block.iter().map(|b| u64::from(*b)).sum();
    octal(&mut block[148..155], sum, 0o777_777);
    block
}

/// Octal digits and a NUL; what is too large stands in a PAX record and is zero here.
fn octal(field: &mut [u8], value: u64, most: u64) {
    let value = if value > most { 0 } else { value };
    let text = format!("{value:0width$o}", width = field.len() - 1);
    field[..text.len()].copy_from_slice(text.as_bytes());
}
