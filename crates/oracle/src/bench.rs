//! Measures how fast redo is parsed, split and applied.
#![allow(clippy::disallowed_methods, reason = "a benchmark measures real time")]

use crate::log::Log;
use crate::replay::Replay;
use anyhow::Result;
use std::collections::HashMap;
use std::hint::black_box;
use std::time::Instant;
use xylem_redo::{MtrItem, MtrReader, ParseStep, SpaceFlags, apply, parse_mtr};
use xylem_types::{Lsn, PageId};

/// Measures with the redo of a log, and returns the result as text. Each figure is
/// the best of `rounds`.
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
        let work = Work::gather(log)?;
        let s = best(rounds, || work.apply())?;
        text.push_str(&format!(
            "apply                     {:7.0} MB/s ({:.0} ns for each of {} page runs, {} pages)\n",
            mb / s,
            s * 1e9 / work.runs.len() as f64,
            work.runs.len(),
            work.pages.len()
        ));
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

/// The runs of a log, split in advance, so that applying is measured alone.
struct Work<'a> {
    pages: Vec<(PageId, SpaceFlags)>,
    /// The index in `pages`, the end LSN of the mtr, and the records.
    runs: Vec<(usize, Lsn, &'a [u8])>,
}

impl<'a> Work<'a> {
    fn gather(log: &'a Log) -> Result<Work<'a>> {
        let mut work = Work {
            pages: Vec::new(),
            runs: Vec::new(),
        };
        let (mut places, mut flags) = (HashMap::new(), HashMap::new());
        let (mut rest, mut lsn) = (log.bytes(), log.start());
        while let ParseStep::Mtr(mtr) = parse_mtr(rest, lsn)? {
            for item in mtr.items() {
                match item? {
                    MtrItem::SpaceFlags { space, flags: f } => {
                        flags.insert(space, f);
                    }
                    MtrItem::Page { page, records, .. } => {
                        let Some(&flags) = flags.get(&page.space) else {
                            continue;
                        };
                        let place = *places.entry(page).or_insert_with(|| {
                            work.pages.push((page, flags));
                            work.pages.len() - 1
                        });
                        work.runs.push((place, mtr.end_lsn(), records));
                    }
                    _ => {}
                }
            }
            rest = rest.get(mtr.size()..).unwrap_or_default();
            lsn = mtr.end_lsn();
        }
        Ok(work)
    }

    fn apply(&self) -> Result<()> {
        let mut buffers: Vec<Vec<u8>> = self
            .pages
            .iter()
            .map(|(_, f)| vec![0; f.physical_page_size()])
            .collect();
        for &(place, end, records) in &self.runs {
            let (page, flags) = self.pages[place];
            apply(&mut buffers[place], page, flags, end, records)?;
        }
        black_box(&buffers);
        Ok(())
    }
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
