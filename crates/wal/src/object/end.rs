//! Finds where a line of objects ends, without reading it: the rules are in
//! `docs/formats/wal-objects.md`.

use super::format::{Block, Folder, Header, Name, position};
use super::objects::{Fault, Object, Objects, Row, located};
use crate::Durable;
use crate::entry::follow;
use crate::line::Line;
use std::collections::BTreeMap;

/// How often to look again when objects vanish between two requests, because
/// the line's owner trims.
pub(crate) const LOOKS_MAX: usize = 20;

/// Where a line ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct End {
    /// The number of the next object of entries.
    pub next: u64,
    /// The generation in which it would be written; 0 when the line was never
    /// claimed.
    pub generation: u32,
    /// The generation of the last object of entries; 0 when there is none.
    pub generation_before: u32,
    /// The line after the last entry, and that one's time.
    pub line: Line,
    pub time_us: u64,
    /// Bytes of all objects of entries so far, trimmed ones too.
    pub bytes: u64,
    /// No object from this number on was ever trimmed.
    pub known: u64,
    /// Objects before this number are trimmed, apart from late ones that are
    /// void.
    pub first: u64,
}

impl End {
    /// After `block`, whose entries must follow what was before, if that is
    /// known.
    fn after(
        objects: &Objects,
        block: &Block,
        generation: u32,
        before: Option<(Line, u64)>,
    ) -> Result<End, Fault> {
        let name = block.header.name;
        let mut now = before;
        for index in 0..block.count() {
            let (entry, record) = match block.entry(index) {
                Some(Ok(entry)) => entry,
                Some(Err(why)) => return Err(objects.corrupt(name, 0, &why)),
                None => break,
            };
            let line = follow(now.map(|(line, _)| line), &entry, &record);
            match (line, now) {
                (Some(line), Some((_, time_us))) if entry.time_follows(time_us) => {
                    now = Some((line, entry.time_us));
                }
                (Some(line), None) => now = Some((line, entry.time_us)),
                _ => {
                    let why = format!("entry {index} does not follow the one before it");
                    return Err(objects.corrupt(name, 0, &why));
                }
            }
        }
        let (line, time_us) = now.unwrap_or_default();
        Ok(End {
            next: name.number + 1,
            generation,
            generation_before: name.generation,
            line,
            time_us,
            bytes: block.header.bytes_before + block.header.total(),
            known: block.header.known,
            first: block.header.first,
        })
    }

    /// Moves the end behind one more object of the line.
    pub fn adopt(&mut self, objects: &Objects, block: &Block) -> Result<(), Fault> {
        let before = Some((self.line, self.time_us));
        *self = End::after(objects, block, self.generation, before)?;
        Ok(())
    }

    /// How far the line is durable.
    pub fn durable(&self) -> Durable {
        Durable {
            epoch: self.line.epoch,
            seq: self.line.seq,
            lsn: self.line.lsn,
            position: position(self.next, 0),
        }
    }
}

/// How sure to be of an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sure {
    /// The line may have grown during the look; the next step will notice.
    Nearly,
    /// It ended there at some moment of the call.
    Quite,
}

/// Finds the end of the line.
pub(crate) async fn find(objects: &Objects, sure: Sure) -> Result<End, Fault> {
    for _ in 0..LOOKS_MAX {
        if let Some(end) = look(objects, sure).await? {
            return Ok(end);
        }
    }
    Err(vanishing(objects, "end"))
}

/// Objects at that end of the line are gone whenever they are to be read.
pub(crate) fn vanishing(objects: &Objects, place: &str) -> Fault {
    Fault::Corrupt(format!(
        "{}: objects at the {place} of the WAL keep vanishing: something other than the WAL's owner removes them",
        objects.remote.place("")
    ))
}

/// Objects by number and generation.
type Rows = BTreeMap<Name, Row>;

/// The object of entries with the highest number in the highest generation: its
/// writer knew more of the line than any other. A claim does not count, because
/// it may have been under way for long.
fn newest(rows: &Rows) -> Option<Row> {
    let entries = rows.values().filter(|r| !r.is_claim());
    entries
        .max_by_key(|r| (r.name.generation, r.name.number))
        .copied()
}

/// The objects that a look at the end of the line has listed.
struct Listed {
    folders: Vec<Folder>,
    rows: Rows,
    /// All numbers from here on are listed.
    from: u64,
    /// The header of the newest object of entries; `None` where there is none.
    known: Option<Header>,
}

/// One look; `None` when something changed under it.
async fn look(objects: &Objects, sure: Sure) -> Result<Option<End>, Fault> {
    let Some(mut listed) = list_down(objects).await? else {
        return Ok(None);
    };
    if sure == Sure::Quite && !list_up(objects, &mut listed).await? {
        return Ok(None);
    }
    let name = walk(objects, &listed)?;
    let Some(last) = name.number.checked_sub(1) else {
        return Ok(Some(End {
            generation: name.generation,
            ..End::default()
        }));
    };
    let rows: Vec<Row> = listed.rows.into_values().collect();
    let Some(last) = located(&rows, last) else {
        return Ok(None);
    };
    match objects.get(last.name).await? {
        Some(Object::Entries(block)) => {
            End::after(objects, &block, name.generation, None).map(Some)
        }
        // The object was trimmed since the list was made; a late claim may have
        // its name.
        Some(Object::Claim(_)) | None => Ok(None),
    }
}

/// Lists folders downwards, until the list has every object that the newest
/// object's writer did not know to be in the line, and the one before those.
/// `None` when the newest object has gone.
async fn list_down(objects: &Objects) -> Result<Option<Listed>, Fault> {
    let folders = objects.folders().await?;
    let mut rows = Rows::new();
    let mut lower = folders.iter().rev().copied().peekable();
    let mut from = u64::MAX;
    let known = loop {
        let to = match (newest(&rows), lower.peek()) {
            (Some(row), _) => {
                let Some(header) = objects.header(row).await? else {
                    return Ok(None);
                };
                if from <= header.known.saturating_sub(1) {
                    break Some(header);
                }
                Folder::of(header.known.saturating_sub(1))
            }
            (None, Some(folder)) => *folder,
            (None, None) => break None,
        };
        while let Some(folder) = lower.next_if(|folder| *folder >= to) {
            rows.extend(objects.list(folder).await?.iter().map(|r| (r.name, *r)));
        }
        from = to.numbers().start;
    };
    Ok(Some(Listed {
        folders,
        rows,
        from,
        known,
    }))
}

/// Lists the same folders again, upwards: an owner at work may have gone from
/// a folder that was still to be listed to one that had been, and cannot do so
/// upwards. False when the line has left what is listed.
async fn list_up(objects: &Objects, listed: &mut Listed) -> Result<bool, Fault> {
    let from = listed.known.map_or(Folder(0), |_| Folder::of(listed.from));
    listed.folders.retain(|folder| *folder >= from);
    listed.rows.clear();
    for folder in &listed.folders {
        let rows = objects.list(*folder).await?;
        listed.rows.extend(rows.iter().map(|r| (r.name, *r)));
    }
    let mut now = objects.folders().await?;
    now.retain(|folder| *folder >= from);
    if now.iter().any(|folder| !listed.folders.contains(folder)) {
        return Ok(false);
    }
    listed.known = match newest(&listed.rows) {
        Some(row) => match objects.header(row).await? {
            Some(header) => Some(header),
            None => return Ok(false),
        },
        None => None,
    };
    let before = |header: Header| header.known.saturating_sub(1) < from.numbers().start;
    Ok(!listed.known.is_some_and(before))
}

/// The first name that is free in the line, from the newest object's `known`
/// on.
fn walk(objects: &Objects, listed: &Listed) -> Result<Name, Fault> {
    let mut name = listed.known.map_or(
        Name {
            number: 0,
            generation: 0,
        },
        |header| Name {
            number: header.known,
            generation: header.name.generation,
        },
    );
    while let Some(row) = listed.rows.get(&name) {
        if row.is_claim() {
            let next = name.generation.checked_add(1);
            name.generation =
                next.ok_or_else(|| objects.corrupt(name, 0, "there is no further generation"))?;
        } else {
            name.number += 1;
        }
    }
    Ok(name)
}
