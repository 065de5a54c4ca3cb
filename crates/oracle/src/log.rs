//! Reads a redo log file as one stream of redo.

use anyhow::{Context, Result, bail};
use std::path::Path;
use xylem_redo::{LogGeometry, LogHeader, Mtr, ParseStep, parse_mtr, read_log_file_header};
use xylem_types::Lsn;

/// The redo of a log file, in the order of LSNs.
#[derive(Debug)]
pub struct Log {
    /// The file's header.
    pub header: LogHeader,
    start: Lsn,
    end: Lsn,
    bytes: Vec<u8>,
}

impl Log {
    /// Reads `ib_logfile0` from the file's first LSN, or from the newest checkpoint
    /// if the ring has overwritten the first LSN.
    ///
    /// # Errors
    /// When the file is not a redo log of MariaDB 10.8 or later.
    pub fn read(path: &Path) -> Result<Log> {
        let file = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
        let header = read_log_file_header(&file)?;
        let geometry = LogGeometry::new(header.first_lsn, file.len() as u64)
            .context("the redo log has no room for redo")?;
        // The sequence bits tell whether the bytes of the first turn still exist.
        let mut log = Log::unroll(&file, &header, geometry, header.first_lsn)?;
        if log.end <= header.checkpoint_end_lsn {
            log = Log::unroll(&file, &header, geometry, header.checkpoint_lsn)?;
        }
        if log.end <= header.checkpoint_end_lsn {
            bail!(
                "the redo log ends at LSN {}, but its checkpoint ends at LSN {}",
                log.end,
                header.checkpoint_end_lsn
            );
        }
        Ok(log)
    }

    fn unroll(file: &[u8], header: &LogHeader, ring: LogGeometry, start: Lsn) -> Result<Log> {
        let at = ring
            .offset(start)
            .context("the LSN is below the redo log's first LSN")? as usize;
        let (before, after) = file.split_at(at);
        let mut bytes = after.to_vec();
        bytes.extend_from_slice(
            before
                .get(xylem_redo::START_OFFSET as usize..)
                .unwrap_or_default(),
        );
        let mut end = start;
        let mut pos = 0;
        // The redo log ends where no whole mtr of this turn follows.
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

    /// Whether this is all redo since the file's first LSN.
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

    /// The redo from [`Log::start`] to [`Log::end`].
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Calls `f` with each mini-transaction from `from` on.
    ///
    /// # Errors
    /// Those of `f`, and when no mini-transaction begins at `from`.
    pub fn for_each(&self, from: Lsn, mut f: impl FnMut(Mtr<'_>) -> Result<()>) -> Result<()> {
        let mut lsn = from;
        while lsn < self.end {
            let rest = self
                .bytes
                .get((lsn.0 - self.start.0) as usize..)
                .unwrap_or_default();
            let ParseStep::Mtr(mtr) = parse_mtr(rest, lsn)? else {
                bail!("the redo is truncated at LSN {lsn}")
            };
            lsn = mtr.end_lsn();
            f(mtr)?;
        }
        Ok(())
    }
}
