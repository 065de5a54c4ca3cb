//! Reads the WAL in pieces: entries, and the whole mtrs in them, checked and split
//! by page.
//!
//! A piece depends on nothing but the WAL, so that another thread can read the next
//! ones while one is taken in. Redo is copied once, from the WAL's buffer to where
//! mtrs that lie in several entries are whole; it becomes part of a layer from there.

use crate::layer::batch::{MtrEnd, Mtrs, Run, len_kind};
use crate::layer::chain::Kind;
use crate::layer::key::page_to_u64;
use crate::manifest::record::Resume;
use xylem_redo::{Mtr, MtrItem, ParseStep, RedoError, parse_mtr_from};
use xylem_types::Lsn;
use xylem_wal::{Lent, LentRecord, Position, Record, WalError, WalReader};

/// Bytes of redo after which a piece is full.
const PIECE_BYTES: usize = 256 << 10;
/// Entries likewise.
const PIECE_ENTRIES: usize = 4096;
/// The most of their buffers that pieces keep while they wait for redo.
const IDLE_BYTES: usize = 64 << 10;

/// An entry of the WAL, without its content.
pub(super) struct Head {
    /// The place after it.
    pub(super) next: Position,
    pub(super) time_us: u64,
    pub(super) stepped: bool,
    /// The LSN at which its redo ends; none when it has none, or none that is new.
    pub(super) redo_end: Option<Lsn>,
    /// Mtrs of the piece that are whole with it.
    pub(super) mtrs: usize,
}

/// Why a piece ends.
#[derive(Default)]
pub(super) enum End {
    /// It is full: there is more.
    #[default]
    Full,
    /// So does the WAL, for now.
    Reached,
    /// With the last of its entries, which is no redo.
    Other(Record),
    /// Its last entry continues with what is no redo.
    Bad(String),
    Wal(WalError),
}

/// See the module.
#[derive(Default)]
pub(super) struct Piece {
    pub(super) entries: Vec<Head>,
    pub(super) mtrs: Mtrs,
    pub(super) end: End,
}

/// Where the redo that is read next belongs.
struct Stream {
    /// The start of the unfinished mtr.
    lsn: Lsn,
    /// What there is of it.
    bytes: Vec<u8>,
    /// How much of that the search for its end has passed.
    scanned: usize,
}

impl Stream {
    fn at(lsn: Lsn) -> Stream {
        Stream {
            lsn,
            bytes: Vec::new(),
            scanned: 0,
        }
    }
}

/// Reads pieces, one after the other.
pub(super) struct Pieces {
    wal: Box<dyn WalReader>,
    /// None before an epoch begins.
    stream: Option<Stream>,
    /// The place where the last start resumed; none once an epoch has begun.
    resumed: Option<Resume>,
}

impl Pieces {
    /// Those of `wal`, which stands where ingest resumes.
    pub(super) fn new(wal: Box<dyn WalReader>, resume: Resume) -> Pieces {
        Pieces {
            wal,
            stream: resume.begun.then(|| Stream::at(resume.lsn)),
            resumed: Some(resume),
        }
    }

    /// Reads the next piece.
    pub(super) fn read(&mut self, piece: &mut Piece) {
        piece.entries.clear();
        piece.mtrs.clear();
        if let Some(stream) = &mut self.stream {
            piece.mtrs.start = stream.lsn;
            // The unfinished mtr goes on in the piece.
            std::mem::swap(&mut piece.mtrs.bytes, &mut stream.bytes);
        }
        piece.end = self.fill(piece);
        if let Some(stream) = &mut self.stream {
            let whole = piece.mtrs.ends.last().map_or(0, |e| e.byte as usize);
            stream.bytes.clear();
            if whole == 0 {
                std::mem::swap(&mut piece.mtrs.bytes, &mut stream.bytes);
            } else {
                let rest = piece.mtrs.bytes.get(whole..).unwrap_or_default();
                stream.bytes.extend_from_slice(rest);
                piece.mtrs.bytes.truncate(whole);
            }
        }
        if let End::Other(Record::Begin { start }) = &piece.end {
            // Bytes of a torn mtr before it are void.
            self.stream = Some(Stream::at(*start));
            self.resumed = None;
        }
    }

    /// Gives back memory, before a wait.
    pub(super) fn shrink(&mut self, piece: &mut Piece) {
        if piece.mtrs.bytes.capacity() > IDLE_BYTES {
            *piece = Piece::default();
        }
        if let Some(stream) = &mut self.stream {
            stream.bytes.shrink_to(IDLE_BYTES);
        }
    }

    fn fill(&mut self, piece: &mut Piece) -> End {
        let Pieces {
            wal,
            stream,
            resumed,
        } = self;
        loop {
            let mut end = None;
            let lent = wal.lend(&mut |entry| {
                end = take(piece, stream.as_mut(), *resumed, &entry);
            });
            match (lent, end) {
                (Err(e), _) => return End::Wal(e),
                (Ok(false), _) => return End::Reached,
                (Ok(true), Some(end)) => return end,
                (Ok(true), None) => {}
            }
            let whole = piece.mtrs.ends.last().map_or(0, |e| e.byte as usize);
            if whole >= PIECE_BYTES || piece.entries.len() >= PIECE_ENTRIES {
                return End::Full;
            }
        }
    }
}

/// Adds an entry to the piece. Returns how the piece ends if it does there.
fn take(
    piece: &mut Piece,
    stream: Option<&mut Stream>,
    resumed: Option<Resume>,
    entry: &Lent<'_>,
) -> Option<End> {
    let mut head = Head {
        next: entry.next,
        time_us: entry.time_us,
        stepped: entry.stepped,
        redo_end: None,
        mtrs: piece.mtrs.ends.len(),
    };
    let end = match entry.record {
        LentRecord::Other(record) => Some(End::Other(record.clone())),
        LentRecord::Redo { start, bytes } => {
            let begins = match stream {
                None => Err(format!(
                    "redo at LSN {start} stands before the WAL's first epoch"
                )),
                Some(stream) => append(piece, stream, resumed, start, bytes, &mut head),
            };
            begins.err().map(End::Bad)
        }
    };
    head.mtrs = piece.mtrs.ends.len();
    piece.entries.push(head);
    end
}

/// Adds the redo of an entry, as far as it is new.
fn append(
    piece: &mut Piece,
    stream: &mut Stream,
    resumed: Option<Resume>,
    start: Lsn,
    bytes: &[u8],
    head: &mut Head,
) -> Result<(), String> {
    let mtrs = &mut piece.mtrs;
    let expected = Lsn(mtrs.start.0.saturating_add(mtrs.bytes.len() as u64));
    let mut bytes = bytes;
    if start != expected {
        // After a restart the first entries may begin before what is left.
        let known = resumed.is_some_and(|r| start < r.lsn && expected == r.lsn);
        if !known {
            return Err(format!(
                "redo at LSN {start} does not follow: LSN {expected} is next"
            ));
        }
        let skip = expected.bytes_since(start).min(bytes.len() as u64) as usize;
        bytes = bytes.get(skip..).unwrap_or_default();
        if bytes.is_empty() {
            return Ok(());
        }
    }
    mtrs.bytes.extend_from_slice(bytes);
    head.redo_end = Some(Lsn(expected.0.saturating_add(bytes.len() as u64)));
    split(mtrs, stream).map_err(|e| e.to_string())
}

/// Finds the mtrs that are whole now, and the runs in them.
fn split(mtrs: &mut Mtrs, stream: &mut Stream) -> Result<(), RedoError> {
    loop {
        let from = mtrs.ends.last().map_or(0, |e| e.byte);
        let rest = mtrs.bytes.get(from as usize..).unwrap_or_default();
        let ParseStep::Mtr(mtr) = parse_mtr_from(rest, stream.lsn, &mut stream.scanned)? else {
            return Ok(());
        };
        let begun = mtrs.runs.len();
        match runs(&mtr, from, &mut mtrs.runs) {
            Ok(has_events) => {
                stream.lsn = mtr.end_lsn();
                mtrs.ends.push(MtrEnd {
                    byte: from + mtr.size() as u32,
                    run: mtrs.runs.len() as u32,
                    has_events,
                });
            }
            Err(e) => {
                // None of it may be seen.
                mtrs.runs.truncate(begun);
                return Err(e);
            }
        }
    }
}

/// Adds the runs of an mtr that begins at byte `from`. Returns whether there is
/// anything else in it.
fn runs(mtr: &Mtr<'_>, from: u32, out: &mut Vec<Run>) -> Result<bool, RedoError> {
    let begun = out.len();
    let ordinary = mtr.ordinary_runs(|page, at, len| {
        out.push(Run {
            page: page_to_u64(page),
            start: from + at,
            len_kind: len_kind(len, Kind::Delta),
        });
    });
    if ordinary.is_some() {
        return Ok(false);
    }
    out.truncate(begun);
    let mut has_events = false;
    for item in mtr.items() {
        match item? {
            MtrItem::Page {
                page,
                at,
                records,
                starts_fresh,
            } => {
                let kind = if starts_fresh {
                    Kind::Fresh
                } else {
                    Kind::Delta
                };
                out.push(Run {
                    page: page_to_u64(page),
                    start: from + at,
                    len_kind: len_kind(records.len() as u32, kind),
                });
            }
            _ => has_events = true,
        }
    }
    Ok(has_events)
}
