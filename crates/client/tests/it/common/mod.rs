//! A scripted page server behind a proxy that can cut its connections.
#![allow(missing_docs)]
// This code replaces a server; any failure in it fails the test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods)]

mod proxy;
pub mod replay;
mod script;
mod serve;
pub mod trust;

pub use proxy::{Server, Way};
pub use script::{Frame, Script, code};

use std::time::{Duration, Instant};
use xylem_client::client::PageWanted;
use xylem_client::pages::Target;

pub const PAGE: usize = 16384;

/// The LSN at which the computes of these tests begin.
pub const START: u64 = 12288;

/// The contents of a page in these tests, different for each page.
pub fn page(space: u32, no: u32, size: usize) -> Vec<u8> {
    let seed = space.wrapping_mul(31).wrapping_add(no) as usize;
    (0..size).map(|at| ((at / 7 + seed) % 251) as u8).collect()
}

/// Redo in these tests.
pub fn bytes(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|at| ((at * 31 + seed) % 253) as u8).collect()
}

/// Pseudo-random bytes.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 24) as u8
        })
        .collect()
}

/// A request for a page into `buf`, which must outlive the call.
pub fn wanted(space_id: u32, page_no: u32, buf: &mut [u8]) -> PageWanted {
    // SAFETY: every test waits for the page before it frees the buffer.
    let target = unsafe { Target::new(buf.as_mut_ptr(), buf.len()) };
    PageWanted {
        space_id,
        page_no,
        min_lsn: START + 77,
        target,
    }
}

/// Waits until `condition` holds, for ten seconds at most.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < until, "not within ten seconds: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The shared library that cargo built beside this test.
pub fn library() -> std::path::PathBuf {
    let deps = std::env::current_exe()
        .unwrap()
        .parent()
        .unwrap()
        .to_owned();
    deps.join("libxylem_client.so")
}
