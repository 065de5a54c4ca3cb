//! Measures the cost of checking redo before it enters a WAL, and the cost of a
//! plain checksum of the same bytes.
//!
//! `cargo run --release -p xylem-redo --example check_bench`
#![allow(clippy::disallowed_methods, reason = "a benchmark measures real time")]

use std::hint::black_box;
use std::time::{Duration, Instant};
use xylem_redo::{MtrCheck, RedoError};
use xylem_types::Lsn;

/// Redo that InnoDB wrote: mtrs of about 100 bytes.
const REDO: &[u8] = include_bytes!("../tests/data/mixed-4k.redo");
const LASTS: Duration = Duration::from_secs(1);

fn main() -> Result<(), RedoError> {
    let frames = [4 << 10, 64 << 10, REDO.len()];
    for frame in frames {
        let rate = rate(|| {
            let mut check = MtrCheck::new(Lsn::FIRST);
            for bytes in REDO.chunks(frame) {
                check.push(black_box(bytes))?;
            }
            Ok(())
        })?;
        println!("framing and CRC of mtrs, frames of {frame} bytes: {rate:.2} GB/s");
    }
    let rate = rate(|| {
        black_box(crc32c::crc32c(black_box(REDO)));
        Ok(())
    })?;
    println!("CRC-32C of a frame's payload: {rate:.2} GB/s");
    Ok(())
}

/// The rate of `pass` in GB of redo per second.
fn rate(mut pass: impl FnMut() -> Result<(), RedoError>) -> Result<f64, RedoError> {
    let began = Instant::now();
    let mut passes = 0u32;
    while began.elapsed() < LASTS {
        pass()?;
        passes += 1;
    }
    let bytes = f64::from(passes) * REDO.len() as f64;
    Ok(bytes / began.elapsed().as_secs_f64() / 1e9)
}
