//! How fast redo is parsed, split and applied.

use crate::log::Log;
use crate::replay::Replay;
use anyhow::Result;
use std::hint::black_box;
use std::time::Instant;
use xylem_redo::MtrReader;

/// Measures on a log; the result as text. Each figure is the best of `rounds`.
///
/// # Errors
/// When the redo cannot be read.
pub fn bench(log: &Log, rounds: u32) -> Result<String> {
    let mb = log.bytes().len() as f64 / 1e6;
    let frame = best(rounds, || {
        log.for_each(log.start(), |mtr| {
            black_box(mtr.end_lsn());
            Ok(())
        })
    })?;
    let stream = best(rounds, || {
        let mut reader = MtrReader::new(log.start());
        for chunk in log.bytes().chunks(64 << 10) {
            reader.push(chunk);
            while let Some(mtr) = reader.next()? {
                black_box(mtr.end_lsn());
            }
        }
        Ok(())
    })?;
    let mut mtrs = 0u64;
    let split = best(rounds, || {
        mtrs = 0;
        log.for_each(log.start(), |mtr| {
            mtrs += 1;
            for item in mtr.items() {
                black_box(item?);
            }
            Ok(())
        })
    })?;
    let mut text = format!(
        "{mb:.1} MB of redo, {mtrs} mtrs\n\
         frame and checksum        {:7.0} MB/s\n\
         the same, 64 KiB chunks   {:7.0} MB/s\n\
         frame, checksum and split {:7.0} MB/s\n",
        mb / frame,
        mb / stream,
        mb / split
    );
    if log.is_whole() {
        let t = Instant::now();
        let replay = Replay::from_nothing(log)?;
        let s = t.elapsed().as_secs_f64();
        text.push_str(&format!(
            "replay from nothing       {:7.0} MB/s ({:.0} ns for each of {} page runs, {} pages)\n",
            mb / s,
            s * 1e9 / replay.stats.runs as f64,
            replay.stats.runs,
            replay.pages()
        ));
    }
    Ok(text)
}

fn best(rounds: u32, mut f: impl FnMut() -> Result<()>) -> Result<f64> {
    let mut best = f64::MAX;
    for _ in 0..rounds.max(1) {
        let t = Instant::now();
        f()?;
        best = best.min(t.elapsed().as_secs_f64());
    }
    Ok(best)
}
