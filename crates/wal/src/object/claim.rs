//! Takes a line over: ends the generation of the last writer, so that none of
//! its objects can follow, and begins the next. `docs/formats/wal-objects.md`
//! says why this holds.

use super::end::{End, Sure, find};
use super::format::{Header, Name, WriterId};
use super::objects::{Fault, Object, Objects};
use bytes::Bytes;

/// The first distance ahead of a faster writer at which a claim is put.
const AHEAD_MIN: u64 = 8;

/// Takes over the line that seemed to end at `end` a moment ago. The returned
/// end is in a generation that only `writer` writes.
pub(crate) async fn claim(objects: &Objects, writer: WriterId, mut end: End) -> Result<End, Fault> {
    loop {
        close(objects, writer, &mut end).await?;
        // Check that this was the end. A name is free again when its object was
        // trimmed, so a server that was held up for long may have claimed a
        // place that the line has left behind.
        let seen = find(objects, Sure::Quite).await?;
        if (seen.next, seen.generation) == (end.next, end.generation) {
            return Ok(end);
        }
        if seen.generation > end.generation {
            return Err(Fault::Superseded {
                wal: objects.remote.place(""),
                generation: seen.generation,
            });
        }
        end = seen;
    }
}

/// Ends the generation in which the line stands, at the first number that is
/// free, and goes over what came before that.
async fn close(objects: &Objects, writer: WriterId, end: &mut End) -> Result<(), Fault> {
    let mut ahead = 0;
    let mut barred = false;
    loop {
        match put(objects, writer, end, end.next).await? {
            Some(Object::Claim(claim)) if claim.writer != writer => {
                // The next generation is that one's.
                next_generation(objects, end)?;
                (ahead, barred) = (0, false);
            }
            None | Some(Object::Claim(_)) => {
                return next_generation(objects, end);
            }
            Some(Object::Entries(block)) => {
                end.adopt(objects, &block)?;
                // The owner is at work, and with several requests on their way
                // it may reach each number before us. A claim further on stops
                // it.
                let generation = end.generation;
                if !barred {
                    ahead = (ahead * 2).max(AHEAD_MIN);
                    let far = put(objects, writer, end, end.next + ahead).await?;
                    barred = far.is_none();
                }
                // What was on its way has arrived meanwhile. One look goes past
                // all of it, where a claim for each number would take three
                // requests.
                *end = find(objects, Sure::Nearly).await?;
                barred &= end.generation == generation;
            }
        }
    }
}

/// Puts a claim at `number`, or says what is there.
async fn put(
    objects: &Objects,
    writer: WriterId,
    end: &End,
    number: u64,
) -> Result<Option<Object>, Fault> {
    let name = Name::new(number, end.generation).map_err(|e| Fault::Corrupt(e.to_string()))?;
    let header = Header {
        name,
        claim: true,
        writer,
        known: end.next,
        first: end.first,
        bytes_before: end.bytes,
        generation_before: 0,
        count: 0,
        body_bytes: 0,
    };
    let bytes = Bytes::copy_from_slice(&header.encode());
    objects.make(name, &bytes).await
}

fn next_generation(objects: &Objects, end: &mut End) -> Result<(), Fault> {
    let next = end.generation.checked_add(1);
    end.generation = next.ok_or_else(|| {
        Fault::Corrupt(format!(
            "{}: there is no further generation",
            objects.remote.place("")
        ))
    })?;
    Ok(())
}
