//! Finds where a line of objects begins, without reading it, and why an object of
//! it is missing: the rules are in `docs/formats/wal-objects.md`.
//!
//! A beginning that is too low makes readers fail that begin there. One that is
//! too high loses what was acknowledged. So objects below a gap are passed over only
//! where they are few.

use super::end::{LOOKS_MAX, Sure, find, vanishing};
use super::format::{Folder, HEADER_BYTES, Header, Name};
use super::objects::{Fault, Objects, Row, located};
use super::writer::UNACKNOWLEDGED_MAX;
use std::collections::HashMap;
use std::time::Duration;

/// The time between two looks.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(50);

/// A line, and the bounds of its beginning.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Line {
    /// It does not begin before this number.
    pub from: u64,
    /// It does not begin after this number: no object from here on was trimmed.
    pub known: u64,
    /// The number of its last object.
    pub last: u64,
    /// The generation of its owner, who asks.
    pub generation: u64,
}

/// The beginning of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct First {
    /// The first object that is left.
    pub name: Name,
    /// Bytes of all objects of entries of the line before it.
    pub bytes_before: u64,
}

/// Finds the beginning of the line.
pub(crate) async fn find_first(objects: &Objects, line: &Line) -> Result<First, Fault> {
    let mut missing = None;
    for _ in 0..LOOKS_MAX {
        let first = look(objects, line).await?;
        match first {
            Some(first) if first.name.number <= line.known => return Ok(first),
            _ => missing = first.map(|first| first.name.number - 1),
        }
        check_owner(objects, line.generation).await?;
        tokio::time::sleep(LOOK_AGAIN_AFTER).await;
    }
    Err(match missing {
        Some(number) => Fault::Corrupt(format!(
            "{}: object {number} of the WAL is missing",
            objects.remote.place("")
        )),
        None => vanishing(objects, "beginning"),
    })
}

/// Looks whether the owner before has removed object `gone`, and all before it, since the
/// line seemed to begin at `first`. Returns where it begins now; `None` if the object is
/// damage.
pub(crate) async fn removed_up_to(
    objects: &Objects,
    gone: u64,
    first: Name,
    line: &Line,
) -> Result<Option<First>, Fault> {
    for _ in 0..LOOKS_MAX {
        // Trimming leaves none of the objects before; damage does.
        let entries = Row {
            name: first,
            bytes: HEADER_BYTES as u64 + 1,
        };
        if objects.header(entries).await?.is_none()
            && let Some(now) = look(objects, line).await?
            && (gone + 1..=line.known).contains(&now.name.number)
        {
            return Ok(Some(now));
        }
        tokio::time::sleep(LOOK_AGAIN_AFTER).await;
    }
    Ok(None)
}

/// Checks that the line is still its owner's, who writes `generation`.
///
/// # Errors
/// [`Fault::Superseded`] if it is not.
pub(crate) async fn check_owner(objects: &Objects, generation: u64) -> Result<(), Fault> {
    let end = find(objects, Sure::Nearly).await?;
    if u64::from(end.generation) > generation {
        return Err(Fault::Superseded {
            wal: objects.remote.place(""),
            generation: end.generation,
        });
    }
    Ok(())
}

/// One look; `None` when something changed under it.
async fn look(objects: &Objects, line: &Line) -> Result<Option<First>, Fault> {
    let upmost = Folder::of(line.last);
    let mut folders = objects.folders().await?;
    folders.retain(|folder| (Folder::of(line.from)..=upmost).contains(folder));
    let mut walks = Walks::default();
    let mut listed: Option<(Folder, Vec<Row>)> = None;
    for folder in folders {
        let mut rows = match listed.take() {
            Some((of, rows)) if of == folder => rows,
            _ => objects.list(folder).await?,
        };
        let upper = Folder(folder.0 + 1);
        let end = folder.numbers().end - 1;
        let walk = if upper > upmost {
            walks.down(objects, &rows, line.last, line.from).await?
        } else {
            let more = objects.list(upper).await?;
            rows.extend(&more);
            listed = Some((upper, more));
            let top = line.last.min(upper.numbers().end - 1);
            let walk = walks.down(objects, &rows, top, line.from).await?;
            match walk {
                Walk::Down { lowest, .. } if lowest.name.folder() == folder => walk,
                Walk::Changed => walk,
                _ => walks.down(objects, &rows, end, line.from).await?.if_many(),
            }
        };
        match walk {
            Walk::Nothing => {}
            Walk::Changed => return Ok(None),
            Walk::Down {
                top, lowest, bytes, ..
            } => {
                let Some(header) = objects.header(top).await? else {
                    return Ok(None);
                };
                return Ok(Some(First {
                    name: lowest.name,
                    bytes_before: header.bytes_before.saturating_sub(bytes),
                }));
            }
        }
    }
    Ok(None)
}

/// A walk down along the line.
#[derive(Clone, Copy, Debug)]
enum Walk {
    /// Its first object is not there.
    Nothing,
    /// An object has gone meanwhile.
    Changed,
    Down {
        top: Row,
        /// The lowest object from which the line goes up to `top` without a gap.
        lowest: Row,
        /// How many objects it went down.
        steps: usize,
        /// Bytes of the objects below `top`.
        bytes: u64,
    },
}

impl Walk {
    /// Nothing, unless it has more objects than can be void, or can be late ones that
    /// were trimmed before: an owner has few on their way.
    fn if_many(self) -> Walk {
        match self {
            Walk::Down { steps, .. } if steps < UNACKNOWLEDGED_MAX => Walk::Nothing,
            other => other,
        }
    }
}

/// Walks down, which do not read a header twice.
#[derive(Debug, Default)]
struct Walks {
    /// [`Header::generation_before`] by object.
    before: HashMap<Name, u32>,
}

impl Walks {
    /// Walks from object `top`, which is in the line if anything is, in a sorted
    /// list, to `from` at the lowest.
    async fn down(
        &mut self,
        objects: &Objects,
        rows: &[Row],
        top: u64,
        from: u64,
    ) -> Result<Walk, Fault> {
        let Some(top) = located(rows, top) else {
            return Ok(Walk::Nothing);
        };
        let (mut lowest, mut steps, mut bytes) = (top, 0, 0);
        while lowest.name.number > from {
            let number = lowest.name.number - 1;
            let of = |generation| {
                let name = Name { number, generation };
                let at = rows.binary_search_by_key(&name, |r| r.name).ok()?;
                Some(rows[at]).filter(|r| !r.is_claim())
            };
            let below = match of(lowest.name.generation) {
                Some(below) => Some(below),
                // An object of an older generation is in the line only if the line
                // went from it to this one.
                None => match self.generation_before(objects, lowest).await? {
                    Some(0) => located(rows, number),
                    Some(generation) => of(generation),
                    None => return Ok(Walk::Changed),
                },
            };
            let Some(below) = below else { break };
            (lowest, steps, bytes) = (below, steps + 1, bytes + below.bytes);
        }
        Ok(Walk::Down {
            top,
            lowest,
            steps,
            bytes,
        })
    }

    async fn generation_before(
        &mut self,
        objects: &Objects,
        row: Row,
    ) -> Result<Option<u32>, Fault> {
        if let Some(known) = self.before.get(&row.name) {
            return Ok(Some(*known));
        }
        let Some(Header {
            generation_before, ..
        }) = objects.header(row).await?
        else {
            return Ok(None);
        };
        self.before.insert(row.name, generation_before);
        Ok(Some(generation_before))
    }
}
