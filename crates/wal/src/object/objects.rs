//! A WAL's objects in their store: made, read and checked, listed.

use super::format::{Block, Folder, HEADER_BYTES, Header, Name};
use crate::WalError;
use crate::failure::Failure;
use crate::remote::{Listed, Made, Remote};
use bytes::Bytes;

/// Why a WAL in an object store does not go on. It is kept, because every later
/// caller is told.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// The store refuses, or does not answer.
    Failed(Failure),
    /// An object is not what was written.
    Corrupt(String),
    /// Another writer has taken the line over.
    Superseded { wal: String, generation: u32 },
}

impl Fault {
    /// The error for one more caller.
    pub fn error(&self) -> WalError {
        match self {
            Fault::Failed(failure) => failure.error(),
            Fault::Corrupt(why) => WalError::Corrupt(why.clone()),
            Fault::Superseded { wal, generation } => WalError::Superseded {
                wal: wal.clone(),
                generation: u64::from(*generation),
            },
        }
    }
}

impl From<Failure> for Fault {
    fn from(failure: Failure) -> Fault {
        Fault::Failed(failure)
    }
}

/// An object, read and checked.
#[derive(Clone, Debug)]
pub(crate) enum Object {
    Claim(Header),
    Entries(Block),
}

/// An object in a list of its folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub name: Name,
    pub bytes: u64,
}

impl Row {
    /// Whether it is a claim: no object of entries is as short.
    pub fn is_claim(&self) -> bool {
        self.bytes == HEADER_BYTES as u64
    }
}

/// The objects of one WAL.
#[derive(Debug)]
pub(crate) struct Objects {
    pub remote: Remote,
}

impl Objects {
    /// Makes an object. Returns the one that has the name already, if there is
    /// one.
    pub async fn make(&self, name: Name, bytes: &Bytes) -> Result<Option<Object>, Fault> {
        match self.remote.make(&name.to_string(), bytes).await? {
            Made::Ours => Ok(None),
            Made::Taken(there) => self.check(name, there).map(Some),
        }
    }

    /// An object, `None` when it is not there.
    pub async fn get(&self, name: Name) -> Result<Option<Object>, Fault> {
        let key = name.to_string();
        let Some(bytes) = self.remote.get(&key).await? else {
            return Ok(None);
        };
        match self.check(name, bytes) {
            Ok(object) => Ok(Some(object)),
            // It may have been damaged on its way.
            Err(why) => match self.remote.get(&key).await? {
                Some(bytes) => {
                    let object = self.check(name, bytes)?;
                    tracing::warn!(object = %self.remote.place(&key), ?why, "an object was damaged on its way; read again it is good");
                    Ok(Some(object))
                }
                None => Ok(None),
            },
        }
    }

    /// The header of an object; `None` when it is not there, or when it was
    /// trimmed since the list was made and a late claim has its name.
    pub async fn header(&self, row: Row) -> Result<Option<Header>, Fault> {
        if row.bytes < HEADER_BYTES as u64 {
            return Err(self.corrupt(row.name, 0, &format!("an object of {} bytes", row.bytes)));
        }
        let key = row.name.to_string();
        let head = self.remote.get_head(&key, HEADER_BYTES as u64);
        let Some(bytes) = head.await? else {
            return Ok(None);
        };
        let header =
            Header::decode(row.name, &bytes).map_err(|why| self.corrupt(row.name, 0, &why))?;
        Ok((header.claim == row.is_claim()).then_some(header))
    }

    /// All folders, the lowest first.
    pub async fn folders(&self) -> Result<Vec<Folder>, Fault> {
        let names = self.remote.folders().await?;
        let mut folders: Vec<Folder> = names.iter().filter_map(|n| Folder::parse(n)).collect();
        folders.sort_unstable();
        Ok(folders)
    }

    /// The objects of a folder, by number and generation.
    pub async fn list(&self, folder: Folder) -> Result<Vec<Row>, Fault> {
        let listed = self.remote.list(&folder.to_string()).await?;
        let row = |l: &Listed| {
            let name = Name::parse(folder, &l.name)?;
            Some(Row {
                name,
                bytes: l.bytes,
            })
        };
        let mut rows: Vec<Row> = listed.iter().filter_map(row).collect();
        rows.sort_unstable_by_key(|r| r.name);
        Ok(rows)
    }

    /// Finds the object `number`, which is in the line: the one of the highest
    /// generation among objects of that number.
    pub async fn locate(&self, number: u64) -> Result<Option<Row>, Fault> {
        let rows = self.list(Folder::of(number)).await?;
        Ok(located(&rows, number))
    }

    fn check(&self, name: Name, bytes: Bytes) -> Result<Object, Fault> {
        let header = Header::decode(name, &bytes).map_err(|why| self.corrupt(name, 0, &why))?;
        if header.claim {
            return Ok(Object::Claim(header));
        }
        Block::decode(header, bytes)
            .map(Object::Entries)
            .map_err(|(at, why)| self.corrupt(name, at, &why))
    }

    pub fn corrupt(&self, name: Name, at: u64, why: &str) -> Fault {
        let place = self.remote.place(&name.to_string());
        Fault::Corrupt(format!("{place} at byte {at}: {why}"))
    }
}

/// As [`Objects::locate`], in a list of all objects of that number, which is
/// sorted.
pub(crate) fn located(rows: &[Row], number: u64) -> Option<Row> {
    let from = rows.partition_point(|r| r.name.number < number);
    let same = rows[from..].iter().take_while(|r| r.name.number == number);
    same.filter(|r| !r.is_claim()).last().copied()
}
