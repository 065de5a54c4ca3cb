//! Finds the objects that make a backup's line: those of the highest
//! generation, and before its beginning the line of the generation that it
//! follows.

use super::format::{Generation, HEADER_BYTES, Header, Kind, name};
use crate::failure::Failure;
use crate::remote::{Listed, Remote};
use crate::{Position, WalError};

/// Why a backup cannot be read or written.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// The store refuses, or does not answer.
    Failed(Failure),
    /// An object is not what was written, or is missing.
    Corrupt(String),
    /// A newer server writes the backup.
    Superseded { wal: String, generation: Generation },
}

impl Fault {
    /// The error for one more caller.
    pub fn error(&self) -> WalError {
        match self {
            Fault::Failed(failure) => failure.error(),
            Fault::Corrupt(why) => WalError::Corrupt(why.clone()),
            Fault::Superseded { wal, generation } => WalError::Superseded {
                wal: wal.clone(),
                generation: generation.0,
            },
        }
    }
}

impl From<Failure> for Fault {
    fn from(failure: Failure) -> Fault {
        Fault::Failed(failure)
    }
}

/// Entries in one object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    pub generation: Generation,
    pub position: Position,
    /// The place after the last entry of the object.
    pub object_end: Position,
    /// The place after the last entry that is in the line: a newer generation
    /// begins there.
    pub end: Position,
}

impl Range {
    pub fn name(&self) -> String {
        name(self.generation, Kind::Range(self.position))
    }
}

/// The line of a backup.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    /// The generation that counts.
    pub newest: Generation,
    /// Where it begins.
    pub start: Position,
    /// The newest generation and those that it follows, as far as they are
    /// needed.
    pub chain: Vec<Generation>,
    /// Ranges of entries, in order. A gap between two ranges means that entries
    /// are missing.
    pub ranges: Vec<Range>,
    /// No entry before this is needed.
    pub first: Position,
}

/// Reads the header of an object, `None` when it is not there.
pub(crate) async fn header(
    remote: &Remote,
    generation: Generation,
    kind: Kind,
) -> Result<Option<Header>, Fault> {
    let key = name(generation, kind);
    let Some(bytes) = remote.get_head(&key, HEADER_BYTES as u64).await? else {
        return Ok(None);
    };
    Header::decode(generation, kind, &bytes)
        .map(Some)
        .map_err(|why| Fault::Corrupt(format!("{}: {why}", remote.place(&key))))
}

/// The generations that have a folder, the newest first.
pub(crate) async fn generations(remote: &Remote) -> Result<Vec<Generation>, Fault> {
    let folders = remote.folders().await?;
    let mut generations: Vec<Generation> = folders
        .iter()
        .filter_map(|folder| Generation::parse(folder))
        .collect();
    generations.sort_unstable_by(|a, b| b.cmp(a));
    Ok(generations)
}

/// The objects in a generation's folder.
pub(crate) struct Folder {
    /// Its ranges, by position.
    pub ranges: Vec<Range>,
    /// Positions of trim marks.
    pub trimmed: Vec<Position>,
    /// It has a start.
    pub begun: bool,
}

pub(crate) async fn folder(remote: &Remote, generation: Generation) -> Result<Folder, Fault> {
    let listed = remote.list(&generation.to_string()).await?;
    let mut folder = Folder {
        ranges: Vec::new(),
        trimmed: Vec::new(),
        begun: false,
    };
    for Listed { name, bytes } in &listed {
        match Kind::parse(name) {
            Some(Kind::Range(position)) => {
                let bytes = bytes.saturating_sub(HEADER_BYTES as u64);
                let end = Position(position.0.saturating_add(bytes));
                folder.ranges.push(Range {
                    generation,
                    position,
                    object_end: end,
                    end,
                });
            }
            Some(Kind::Trimmed(position)) => folder.trimmed.push(position),
            Some(Kind::Start) => folder.begun = true,
            None => {}
        }
    }
    folder.ranges.sort_unstable_by_key(|r| r.position);
    Ok(folder)
}

/// The newest generation that has begun, and the end of its last object, by
/// names and lengths of objects alone.
pub(crate) async fn listed(remote: &Remote) -> Result<Option<(Generation, Position)>, Fault> {
    for generation in generations(remote).await? {
        let found = folder(remote, generation).await?;
        if found.begun {
            let end = found.ranges.iter().map(|range| range.end).max();
            return Ok(Some((generation, end.unwrap_or_default())));
        }
    }
    Ok(None)
}

/// Finds the line; `None` when no generation has begun.
pub(crate) async fn find(remote: &Remote) -> Result<Option<Line>, Fault> {
    let all = generations(remote).await?;
    let mut newest = None;
    for generation in &all {
        // A generation that has not begun has no object in the line.
        newest = header(remote, *generation, Kind::Start).await?;
        if newest.is_some() {
            break;
        }
    }
    let Some(newest) = newest else {
        return Ok(None);
    };
    let mut line = Line {
        newest: newest.generation,
        start: newest.position,
        chain: Vec::new(),
        ranges: Vec::new(),
        first: newest.first,
    };
    // The start of the generation that is next in the line, and the position
    // where the one after it begins.
    let mut start = newest;
    let mut until = Position(u64::MAX);
    // The newest generation claims that everything before this is there.
    let mut whole = newest.position;
    for generation in all.into_iter().filter(|g| *g <= newest.generation) {
        let found = folder(remote, generation).await?;
        // Marks of a generation outside of the line count too: a server that
        // was replaced may have trimmed for a while.
        for mark in found.trimmed {
            line.first = line.first.max(mark.min(until));
        }
        if generation != start.generation {
            continue;
        }
        line.chain.push(generation);
        let mut ranges = found.ranges;
        ranges.retain(|range| range.position >= start.position && range.position < until);
        for range in &mut ranges {
            range.end = range.end.min(until);
        }
        if let Some(last) = ranges.last()
            && let Some(header) = header(remote, generation, Kind::Range(last.position)).await?
        {
            line.first = line.first.max(header.first.min(until));
            if generation == line.newest {
                whole = whole.max(header.whole);
            }
        }
        line.ranges.splice(0..0, ranges);
        until = until.min(start.position);
        if until <= line.first {
            break;
        }
        let Some(follows) = start.follows else {
            break;
        };
        start = header(remote, follows, Kind::Start).await?.ok_or_else(|| {
            Fault::Corrupt(format!(
                "{} is missing: generation {} goes on from there",
                remote.place(&name(follows, Kind::Start)),
                start.generation
            ))
        })?;
    }
    line.cut(whole);
    Ok(Some(line))
}

impl Line {
    /// Cuts the line at the first gap at or behind `whole`, before which all
    /// objects have arrived. The gap is an object that was under way, together
    /// with later ones, when the newest generation's writer died. No caller was
    /// told that entries behind the gap were in the store.
    fn cut(&mut self, whole: Position) {
        let mut end = self.first.max(self.start);
        let behind = self.ranges.partition_point(|r| r.end <= end);
        for (nth, range) in self.ranges.iter().enumerate().skip(behind) {
            if range.position > end {
                if end >= whole {
                    self.ranges.truncate(nth);
                }
                return;
            }
            end = range.end;
        }
    }

    /// The needed ranges, each of which begins where the one before ends.
    pub fn whole(&self, remote: &Remote) -> Result<&[Range], Fault> {
        let needed = self.ranges.partition_point(|r| r.end <= self.first);
        let needed = self.ranges.get(needed..).unwrap_or_default();
        let mut end = self.first;
        for (nth, range) in needed.iter().enumerate() {
            let joins = if nth == 0 {
                range.position <= end
            } else {
                range.position == end
            };
            if !joins {
                return Err(missing(remote, self.newest, end, range.position));
            }
            end = range.end;
        }
        // The newest generation had everything before its beginning.
        if end < self.start {
            return Err(missing(remote, self.newest, end, self.start));
        }
        Ok(needed)
    }
}

fn missing(remote: &Remote, newest: Generation, from: Position, to: Position) -> Fault {
    Fault::Corrupt(format!(
        "{}: the entries from position {} to {} are missing in the line of generation {}: there is no object …/{} that holds them",
        remote.place(""),
        from.0,
        to.0,
        newest.0,
        Kind::Range(from)
    ))
}
