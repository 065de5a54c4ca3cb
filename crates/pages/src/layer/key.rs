//! The keys that values are stored under: ordered bytes with a tag in front.
//!
//! ```text
//! 01 space page            a page; numbers big-endian, 4 bytes each
//! 02 space                 what is known of a tablespace
//! 03 path                  which tablespace has this file name
//! 04 path 00 chunk         a side file: chunk 0 is its kind, mode and size,
//!                          chunk n+1 its bytes [n*65536, (n+1)*65536)
//! 05 name                  what ingest itself must remember
//! ```
//!
//! A path has no NUL byte and `/` sorts after NUL, so a directory's key comes
//! before those of the files in it.

use xylem_types::{PageId, SpaceId};

pub(crate) const TAG_PAGE: u8 = 1;
pub(crate) const TAG_SPACE: u8 = 2;
pub(crate) const TAG_PATH: u8 = 3;
pub(crate) const TAG_SIDE: u8 = 4;
pub(crate) const TAG_STATE: u8 = 5;

/// A key: pages, which are nearly all of them, without an allocation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Key {
    Page(PageId),
    Other(Vec<u8>),
}

/// A page id as one number, ordered alike.
pub(crate) fn page_to_u64(page: PageId) -> u64 {
    u64::from(page.space.0) << 32 | u64::from(page.page.0)
}

/// The page id that [`page_to_u64`] made `v` of.
pub(crate) fn page_from_u64(v: u64) -> PageId {
    PageId::new((v >> 32) as u32, v as u32)
}

impl Key {
    /// The key as it stands in layers.
    pub(crate) fn encode(&self) -> Vec<u8> {
        match self {
            Key::Page(page) => page_key(*page).to_vec(),
            Key::Other(bytes) => bytes.clone(),
        }
    }

    /// For an error message.
    pub(crate) fn page(&self) -> PageId {
        match self {
            Key::Page(page) => *page,
            Key::Other(bytes) => match bytes.as_slice() {
                [TAG_SPACE, a, b, c, d] => PageId::new(u32::from_be_bytes([*a, *b, *c, *d]), 0),
                _ => PageId::default(),
            },
        }
    }
}

/// The key of a page.
pub(crate) fn page_key(page: PageId) -> [u8; 9] {
    let mut out = [TAG_PAGE; 9];
    out[1..5].copy_from_slice(&page.space.0.to_be_bytes());
    out[5..].copy_from_slice(&page.page.0.to_be_bytes());
    out
}

/// The page of a [`page_key`].
pub(crate) fn page_of(key: &[u8]) -> Option<PageId> {
    match key {
        [TAG_PAGE, a, b, c, d, e, f, g, h] => Some(PageId::new(
            u32::from_be_bytes([*a, *b, *c, *d]),
            u32::from_be_bytes([*e, *f, *g, *h]),
        )),
        _ => None,
    }
}

/// The key of a tablespace.
pub(crate) fn space_key(space: SpaceId) -> Key {
    let mut out = vec![TAG_SPACE];
    out.extend_from_slice(&space.0.to_be_bytes());
    Key::Other(out)
}

/// The tablespace of a [`space_key`].
pub(crate) fn space_of(key: &[u8]) -> Option<SpaceId> {
    match key {
        [TAG_SPACE, rest @ ..] => Some(SpaceId(u32::from_be_bytes(rest.try_into().ok()?))),
        _ => None,
    }
}

/// The key of a tablespace's file name.
pub(crate) fn path_key(path: &str) -> Key {
    let mut out = vec![TAG_PATH];
    out.extend_from_slice(path.as_bytes());
    Key::Other(out)
}

/// The key of chunk `chunk` of a side file; 0 is its description.
pub(crate) fn side_key(path: &str, chunk: u32) -> Key {
    let mut out = vec![TAG_SIDE];
    out.extend_from_slice(path.as_bytes());
    out.push(0);
    out.extend_from_slice(&chunk.to_be_bytes());
    Key::Other(out)
}

/// Path and chunk of a [`side_key`].
pub(crate) fn side_of(key: &[u8]) -> Option<(&str, u32)> {
    let [TAG_SIDE, rest @ ..] = key else {
        return None;
    };
    let (path, chunk) = rest.split_at_checked(rest.len().checked_sub(5)?)?;
    let [0, chunk @ ..] = chunk else { return None };
    Some((
        std::str::from_utf8(path).ok()?,
        u32::from_be_bytes(chunk.try_into().ok()?),
    ))
}

/// The key of a piece of ingest's own state.
pub(crate) fn state_key(name: &str) -> Key {
    let mut out = vec![TAG_STATE];
    out.extend_from_slice(name.as_bytes());
    Key::Other(out)
}

/// Describes a key in words.
pub fn key_text(key: &[u8]) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if let Some(page) = page_of(key) {
        return format!("page {page}");
    }
    if let Some(space) = space_of(key) {
        return format!("tablespace {space}");
    }
    if let Some((path, chunk)) = side_of(key) {
        return match chunk {
            0 => format!("file {path}"),
            n => format!("file {path} chunk {}", n - 1),
        };
    }
    match key.split_first() {
        Some((&TAG_PATH, path)) => format!("path {}", text(path)),
        Some((&TAG_STATE, name)) => format!("state {}", text(name)),
        _ => {
            let hex: Vec<String> = key.iter().map(|b| format!("{b:02x}")).collect();
            format!("key {}", hex.concat())
        }
    }
}

/// The first key and the one after the last that are neither pages nor before.
pub(crate) const CATALOG: ([u8; 1], [u8; 1]) = ([TAG_SPACE], [TAG_STATE + 1]);
const _: () = assert!(TAG_SPACE < TAG_PATH && TAG_PATH < TAG_SIDE && TAG_SIDE < TAG_STATE);

/// A path without a leading `./`, as it stands in keys.
pub(crate) fn relative(path: &str) -> &str {
    path.strip_prefix("./").unwrap_or(path)
}
