//! A log file as one run of redo, from an LSN to where the log ends.

use anyhow::{Context, Result, bail};
use std::path::Path;
use xylem_redo::{LogGeometry, LogHeader, Mtr, ParseStep, parse_mtr, read_log_file_header};
use xylem_types::Lsn;

/// The redo of a log file, unrolled.
#[derive(Debug)]
pub struct Log {
    /// The file's header.
    pub header: LogHeader,
    start: Lsn,
    end: Lsn,
    bytes: Vec<u8>,
}

impl Log {
    /// Reads `ib_logfile0` from the file's first LSN or, when the ring has
    /// turned since, from its newest checkpoint.
    ///
    /// # Errors
    /// When it is not a log file of MariaDB 10.8 or later.
    pub fn read(path: &Path) -> Result<Log> {
        let file = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
        let header = read_log_file_header(&file)?;
        let geometry = LogGeometry::new(header.first_lsn, file.len() as u64)
            .context("log file without room for redo")?;
        // Sequence bits tell whether the first turn's bytes are still there.
        let mut log = Log::unroll(&file, &header, geometry, header.first_lsn)?;
        if log.end <= header.checkpoint_end_lsn {
            log = Log::unroll(&file, &header, geometry, header.checkpoint_lsn)?;
        }
        if log.end <= header.checkpoint_end_lsn {
            bail!(
                "log ends at {}, its checkpoint at {}",
                log.end,
                header.checkpoint_end_lsn
            );
        }
        Ok(log)
    }

    fn unroll(file: &[u8], header: &LogHeader, ring: LogGeometry, start: Lsn) -> Result<Log> {
        let at = ring
            .offset(start)
            .context("LSN before the log file's first")? as usize;
        let (before, after) = file.split_at(at);
        let mut bytes = after.to_vec();
        bytes.extend_from_slice(
            before
                .get(xylem_redo::START_OFFSET as usize..)
                .unwrap_or_default(),
        );
        let mut end = start;
        let mut pos = 0;
        // Anything that is not a whole mtr of this turn is the end of the log.
        while let Ok(ParseStep::Mtr(mtr)) = parse_mtr(bytes.get(pos..).unwrap_or_default(), end) {
            let end_byte_lsn = Lsn(end.0 + mtr.record_bytes().len() as u64);
            if ring.sequence_bit(end_byte_lsn) != Some(mtr.end_byte()) {
                break;
            }
            pos += mtr.size();
            end = mtr.end_lsn();
        }
        bytes.truncate(pos);
        Ok(Log {
            header: header.clone(),
            start,
            end,
            bytes,
        })
    }

    /// Whether this is everything since the log file's first LSN.
    pub fn is_whole(&self) -> bool {
        self.start == self.header.first_lsn
    }

    /// The LSN of the first byte.
    pub fn start(&self) -> Lsn {
        self.start
    }

    /// The LSN after the last whole mini-transaction.
    pub fn end(&self) -> Lsn {
        self.end
    }

    /// The redo.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Calls `f` with each mini-transaction from `from` on.
    ///
    /// # Errors
    /// Those of `f`, and when `from` is not where one begins.
    pub fn for_each(&self, from: Lsn, mut f: impl FnMut(Mtr<'_>) -> Result<()>) -> Result<()> {
        let mut lsn = from;
        while lsn < self.end {
            let rest = self
                .bytes
                .get((lsn.0 - self.start.0) as usize..)
                .unwrap_or_default();
            let ParseStep::Mtr(mtr) = parse_mtr(rest, lsn)? else {
                bail!("log cut at {lsn}")
            };
            lsn = mtr.end_lsn();
            f(mtr)?;
        }
        Ok(())
    }
}
