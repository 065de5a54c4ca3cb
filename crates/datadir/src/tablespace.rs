//! A tablespace as its files have it.
//!
//! Source of the first page's layout: `fsp0fsp.h` (`FSP_SPACE_ID`, `FSP_SIZE`,
//! `FSP_SPACE_FLAGS`), `fsp_header_get_encryption_offset()`,
//! `fil_space_read_crypt_data()` in `fil0crypt.cc`.

use crate::bytes::{be16, be32};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use thiserror::Error;
use xylem_redo::SpaceFlags;

/// `FIL_PAGE_OFFSET`.
const PAGE_NO: usize = 4;
/// `FIL_PAGE_ARCH_LOG_NO_OR_SPACE_ID`.
const SPACE_ID: usize = 34;
/// `FSP_HEADER_OFFSET`.
const HEADER: usize = 38;
/// `FSP_HEADER_OFFSET` + `FSP_HEADER_SIZE`.
pub const DESCRIPTORS: usize = HEADER + 112;
/// `CRYPT_MAGIC`.
const CRYPT_MAGIC: &[u8] = b"s\x0e\x0cREt";

/// Bytes of the largest page.
const PAGE_MAX: usize = 64 << 10;

/// A tablespace cannot be used.
#[derive(Debug, Error)]
pub enum SpaceError {
    /// A file cannot be read.
    #[error("cannot be read: {0}")]
    Io(#[from] io::Error),
    /// It is no tablespace, or a damaged one.
    #[error("{0}")]
    Bad(String),
}

/// A tablespace: one file, but for the system tablespace perhaps several.
#[derive(Debug)]
pub struct Tablespace {
    /// Its id.
    pub id: u32,
    /// Its file relative to the data directory; `ibdata1` for the system
    /// tablespace.
    pub name: String,
    /// Its flags.
    pub flags: SpaceFlags,
    /// Its size in pages, as its header says.
    pub pages: u32,
    /// The version of the key that its pages are encrypted with; 0: none.
    pub key_version: u32,
    files: Vec<Part>,
}

/// One file of a tablespace.
#[derive(Debug)]
struct Part {
    path: PathBuf,
    pages: u32,
}

impl Tablespace {
    /// Opens the file `path`, known as `name`.
    ///
    /// # Errors
    /// When it cannot be read, or is not a tablespace's.
    pub fn open(name: &str, path: &Path) -> Result<Tablespace, SpaceError> {
        Tablespace::open_parts(name, &[path.to_owned()])
    }

    /// Opens one that consists of several files.
    ///
    /// # Errors
    /// When one cannot be read, or they are not a tablespace's.
    pub fn open_parts(name: &str, paths: &[PathBuf]) -> Result<Tablespace, SpaceError> {
        let bad = |what: String| Err(SpaceError::Bad(what));
        let Some(first) = paths.first() else {
            return bad("it has no file".into());
        };
        let mut head = vec![0; PAGE_MAX];
        let file = File::open(first)?;
        let mut got = 0;
        while let Some(rest) = head.get_mut(got..).filter(|r| !r.is_empty()) {
            match file.read_at(rest, got as u64)? {
                0 => break,
                n => got += n,
            }
        }
        head.truncate(got);
        let field = |at| be32(&head, at).unwrap_or(0);
        if head.iter().all(|b| *b == 0) {
            return bad("its first page is empty: it was never finished".into());
        }
        let (id, again) = (field(SPACE_ID), field(HEADER));
        if field(PAGE_NO) != 0 || id != again {
            return bad("its first page is not that of a tablespace".into());
        }
        let raw = field(HEADER + 16);
        let Ok(flags) = SpaceFlags::new(raw) else {
            return bad(format!(
                "its flags are {raw:#x}, which say no page size: the file is damaged, or of another version"
            ));
        };
        let pages = field(HEADER + 8);
        let mut files = Vec::new();
        let mut total = 0u64;
        for path in paths {
            let len = std::fs::metadata(path)?.len();
            let count = len / flags.physical_page_size() as u64;
            total += count;
            files.push(Part {
                path: path.clone(),
                pages: u32::try_from(count).unwrap_or(u32::MAX),
            });
        }
        if u64::from(pages) > total {
            return bad(format!(
                "its header says {pages} pages, the file has {total}: its end is missing"
            ));
        }
        let space = Tablespace {
            id,
            name: name.to_owned(),
            flags,
            pages,
            key_version: key_version(&head, flags),
            files,
        };
        Ok(space)
    }

    /// Bytes of a page in the file.
    pub fn page_bytes(&self) -> usize {
        self.flags.physical_page_size()
    }

    /// Bytes of all its pages.
    pub fn bytes(&self) -> u64 {
        u64::from(self.pages) * self.page_bytes() as u64
    }

    /// Pages in an extent.
    pub fn extent(&self) -> u32 {
        extent(self.flags)
    }

    /// Its files.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|f| f.path.as_path())
    }

    /// Opens its files for reading pages.
    ///
    /// # Errors
    /// When that fails.
    pub fn reader(&self) -> io::Result<Reader> {
        let mut parts = Vec::new();
        let mut first = 0u32;
        for part in &self.files {
            let file = File::open(&part.path)?;
            let end = first.saturating_add(part.pages);
            parts.push((first..end, file));
            first = end;
        }
        Ok(Reader {
            parts,
            page_bytes: self.page_bytes(),
        })
    }
}

/// Reads a tablespace's pages.
#[derive(Debug)]
pub struct Reader {
    parts: Vec<(std::ops::Range<u32>, File)>,
    page_bytes: usize,
}

impl Reader {
    /// Fills `out` with pages from `first` on, whole pages, and says how many
    /// came: fewer at the end of a file.
    ///
    /// # Errors
    /// When reading fails, or there is no such page.
    pub fn read(&self, first: u32, out: &mut [u8]) -> io::Result<u32> {
        let part = self.parts.iter().find(|(pages, _)| pages.contains(&first));
        let Some((pages, file)) = part else {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "no such page in the file",
            ));
        };
        let room = u32::try_from(out.len() / self.page_bytes).unwrap_or(u32::MAX);
        let count = room.min(pages.end - first);
        let bytes = out.get_mut(..count as usize * self.page_bytes);
        let offset = u64::from(first - pages.start) * self.page_bytes as u64;
        file.read_exact_at(bytes.unwrap_or_default(), offset)?;
        Ok(count)
    }

    /// One page.
    ///
    /// # Errors
    /// As for [`Reader::read`].
    pub fn page(&self, no: u32) -> io::Result<Vec<u8>> {
        let mut page = vec![0; self.page_bytes];
        self.read(no, &mut page)?;
        Ok(page)
    }
}

/// `FSP_EXTENT_SIZE`.
pub fn extent(flags: SpaceFlags) -> u32 {
    match flags.logical_page_size() {
        4096 => 256,
        8192 => 128,
        _ => 64,
    }
}

/// `XDES_SIZE`: bytes of an extent's descriptor.
pub fn descriptor_bytes(flags: SpaceFlags) -> usize {
    24 + (extent(flags) as usize * 2).div_ceil(8)
}

fn key_version(page: &[u8], flags: SpaceFlags) -> u32 {
    let pages = flags.physical_page_size();
    let at = HEADER + DESCRIPTORS + descriptor_bytes(flags) * pages / extent(flags) as usize;
    let magic = page.get(at..at + CRYPT_MAGIC.len());
    // Scheme, length of the initialisation vector, the vector, the version.
    let after = at + CRYPT_MAGIC.len();
    let scheme = be16(page, after);
    if magic != Some(CRYPT_MAGIC) || scheme != Some(1 << 8 | 16) {
        return 0;
    }
    be32(page, after + 2 + 16).unwrap_or(0)
}
