//! The project's catalogue in the store: numbered documents, created only if
//! absent, the newest the truth.
//!
//! Opening a project claims it: the opener publishes the next number. Whoever
//! had it before finds that number taken and changes nothing more. Documents
//! beyond the last few are removed, and with them the number that a server of
//! long ago would find taken; so each change looks, once it is written,
//! whether there is a newer one.

use super::Project;
use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};
use std::io::{Error, ErrorKind};
use std::sync::{Arc, OnceLock};
use tokio_util::sync::CancellationToken;
use xylem_pages::files::{Files, Place, Put};

/// The folder in the store.
pub const FOLDER: &str = "project";
/// The version of the format that is written; others are refused.
pub const FORMAT: u32 = 2;
const PREFIX: &str = "catalog-";
/// Documents that are kept, the newest among them.
const KEPT: u64 = 4;
/// How often a claim is tried while others claim, too.
const CLAIMS_MAX: u32 = 16;
/// How often a document of uncertain durability is followed by another.
const SYNCS_MAX: u32 = 3;

/// The catalogue cannot be read or changed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CatalogError {
    /// The store failed.
    #[error("cannot {what} {name} in {place}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// Which document, or the folder.
        name: String,
        /// Where.
        place: String,
        /// What the store said.
        source: Arc<Error>,
    },
    /// A document is damaged or of another version.
    #[error("{name} in {place}: {message}")]
    Damaged {
        /// Which document.
        name: String,
        /// Where.
        place: String,
        /// What is wrong.
        message: String,
    },
    /// This server has lost the project.
    #[error(
        "another server has opened this project (catalogue {number} in {place} is not this server's): this one changes nothing any more"
    )]
    Lost {
        /// The document that shows it.
        number: u64,
        /// Where.
        place: String,
    },
    /// A change that makes no sense. A bug.
    #[error("refused to write a catalogue: {0}")]
    Invalid(String),
    /// A change is in place and may not survive a power failure.
    #[error("{name} is in {place}, and could not be made certain to stay there: see to its disk")]
    Unsure {
        /// Which document.
        name: String,
        /// Where.
        place: String,
    },
}

/// What stands in a document.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    format: u32,
    /// CRC-32C of `catalog` as compact JSON, 8 hexadecimal digits.
    crc32c: String,
    catalog: Content,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    number: u64,
    /// Random, chosen by a server when it opens the project, 32 hexadecimal
    /// digits: no two write equal bytes.
    writer: String,
    project: Project,
}

/// Only the version: enough to refuse a newer document by name.
#[derive(Deserialize)]
struct Version {
    format: u32,
}

fn name_of(number: u64) -> String {
    format!("{PREFIX}{number:016x}")
}

fn number_of(name: &str) -> Option<u64> {
    let digits = name.strip_prefix(PREFIX).filter(|d| d.len() == 16)?;
    u64::from_str_radix(digits, 16).ok()
}

fn crc_of(content: &Content) -> Result<String, serde_json::Error> {
    let bytes = serde_json::to_vec(content)?;
    Ok(format!("{:08x}", crc32c::crc32c(&bytes)))
}

fn render(content: &Content) -> Result<Vec<u8>, serde_json::Error> {
    let document = Document {
        format: FORMAT,
        crc32c: crc_of(content)?,
        catalog: content.clone(),
    };
    let mut text = serde_json::to_vec_pretty(&document)?;
    text.push(b'\n');
    Ok(text)
}

fn parse(bytes: &[u8], number: u64) -> Result<Content, String> {
    let version: Version = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
    if version.format != FORMAT {
        return Err(format!(
            "format {} is not known, only {FORMAT} is: use the version of xylem that wrote it",
            version.format
        ));
    }
    let document: Document = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
    let content = document.catalog;
    let crc = crc_of(&content).map_err(|e| e.to_string())?;
    if crc != document.crc32c {
        return Err(format!(
            "checksum is {crc}, the document says {}: it was damaged",
            document.crc32c
        ));
    }
    if content.number != number {
        return Err(format!("it has the number {} inside", content.number));
    }
    content.project.check()?;
    Ok(content)
}

/// A folder of documents.
struct Folder {
    files: Arc<dyn Files>,
    place: String,
}

impl Folder {
    fn open(place: &dyn Place) -> Result<Folder, CatalogError> {
        let url = place.url();
        match place.folder(FOLDER) {
            Ok(files) => Ok(Folder { files, place: url }),
            Err(source) => Err(CatalogError::Io {
                what: "open",
                name: FOLDER.to_owned(),
                place: url,
                source: Arc::new(source),
            }),
        }
    }

    fn io(&self, what: &'static str, name: &str) -> impl FnOnce(Error) -> CatalogError {
        let (name, place) = (name.to_owned(), self.place.clone());
        move |source| CatalogError::Io {
            what,
            name,
            place,
            source: Arc::new(source),
        }
    }

    fn damaged(&self, number: u64) -> impl FnOnce(String) -> CatalogError {
        let (name, place) = (name_of(number), self.place.clone());
        move |message| CatalogError::Damaged {
            name,
            place,
            message,
        }
    }

    fn lost(&self, number: u64) -> CatalogError {
        CatalogError::Lost {
            number,
            place: self.place.clone(),
        }
    }

    /// All numbers there are, in order.
    fn numbers(&self) -> Result<Vec<u64>, CatalogError> {
        let list = self.files.list().map_err(self.io("list", FOLDER))?;
        let mut numbers: Vec<u64> = list
            .iter()
            .filter_map(|(name, _)| number_of(name))
            .collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    fn read(&self, number: u64) -> Result<Content, CatalogError> {
        let name = name_of(number);
        let bytes = self.files.read(&name).map_err(self.io("read", &name))?;
        parse(&bytes, number).map_err(self.damaged(number))
    }

    /// The newest document. One that is removed while it is looked for was
    /// followed by newer ones.
    fn newest(&self) -> Result<Option<Content>, CatalogError> {
        let mut tries = 0;
        loop {
            let Some(number) = self.numbers()?.last().copied() else {
                return Ok(None);
            };
            match self.read(number) {
                Err(CatalogError::Io { source, .. })
                    if source.kind() == ErrorKind::NotFound && tries < CLAIMS_MAX =>
                {
                    tries += 1;
                }
                read => return read.map(Some),
            }
        }
    }

    /// Creates a document. `Exists` also when one with its number is not ours.
    fn put(&self, content: &Content) -> Result<Put, CatalogError> {
        let name = name_of(content.number);
        let bytes = render(content).map_err(|e| CatalogError::Invalid(e.to_string()))?;
        match self
            .files
            .put_new(&name, &bytes)
            .map_err(self.io("create", &name))?
        {
            // An attempt whose outcome was not known may have made it.
            Put::Exists if self.files.read(&name).is_ok_and(|found| found == bytes) => {
                Ok(Put::NotSynced)
            }
            put => Ok(put),
        }
    }

    /// Removes documents before the last few. What stays is removed later.
    fn sweep(&self, newest: u64, numbers: &[u64]) {
        let oldest = newest.saturating_sub(KEPT - 1);
        for number in numbers.iter().filter(|number| **number < oldest) {
            let _ = self.files.remove(&name_of(*number));
        }
    }
}

/// The newest catalogue among `files`, not claimed; none when there is none.
/// `place` is what errors call it.
///
/// # Errors
/// When the store fails, or the document is damaged or of another version.
pub fn read_files(files: Arc<dyn Files>, place: String) -> Result<Option<Project>, CatalogError> {
    let newest = Folder { files, place }.newest()?;
    Ok(newest.map(|content| content.project))
}

/// The newest catalogue in `place`, not claimed; none when there is none.
///
/// # Errors
/// As for [`read_files`].
pub fn read(place: &dyn Place) -> Result<Option<Project>, CatalogError> {
    Ok(Folder::open(place)?
        .newest()?
        .map(|content| content.project))
}

/// Whether there is a catalogue in `place`.
///
/// # Errors
/// When the store fails.
pub fn exists(place: &dyn Place) -> Result<bool, CatalogError> {
    Ok(!Folder::open(place)?.numbers()?.is_empty())
}

/// A catalogue that this server has claimed. Changing it and looking after it
/// block.
pub struct Catalog {
    folder: Folder,
    writer: String,
    /// The number of the newest document; held while one is written.
    number: Mutex<u64>,
    /// By itself: who asks for it does not wait for the store.
    project: RwLock<Arc<Project>>,
    why_lost: OnceLock<CatalogError>,
    lost: CancellationToken,
}

impl Catalog {
    /// Claims the project in `place`; none when there is none. `writer` is a
    /// random number.
    ///
    /// # Errors
    /// When the store fails, or the newest document is damaged or of another
    /// version.
    pub fn claim(place: &dyn Place, writer: u128) -> Result<Option<Catalog>, CatalogError> {
        let folder = Folder::open(place)?;
        let mut tries = 0;
        loop {
            let Some(newest) = folder.newest()? else {
                return Ok(None);
            };
            let catalog =
                Catalog::with(Folder::open(place)?, writer, newest.number, newest.project);
            match catalog.change(|_| Ok::<(), CatalogError>(())) {
                Ok(()) => return Ok(Some(catalog)),
                // Others open it, too; the last of them has it.
                Err(CatalogError::Lost { .. }) if tries < CLAIMS_MAX => tries += 1,
                Err(error) => return Err(error),
            }
        }
    }

    /// Makes `project` the first catalogue of `place`, and claims it.
    ///
    /// # Errors
    /// [`CatalogError::Lost`] when there is one by now; when the store fails.
    pub fn create(
        place: &dyn Place,
        writer: u128,
        project: Project,
    ) -> Result<Catalog, CatalogError> {
        let catalog = Catalog::with(Folder::open(place)?, writer, 0, project);
        catalog.change(|_| Ok::<(), CatalogError>(()))?;
        Ok(catalog)
    }

    fn with(folder: Folder, writer: u128, number: u64, project: Project) -> Catalog {
        Catalog {
            folder,
            writer: format!("{writer:032x}"),
            number: Mutex::new(number),
            project: RwLock::new(Arc::new(project)),
            why_lost: OnceLock::new(),
            lost: CancellationToken::new(),
        }
    }

    /// The project as of the last change.
    pub fn project(&self) -> Arc<Project> {
        Arc::clone(&self.project.read())
    }

    /// The number of the newest document: greater than any that a server had
    /// which opened the project before.
    pub fn number(&self) -> u64 {
        *self.number.lock()
    }

    /// Cancelled when another server has opened the project.
    pub fn lost(&self) -> &CancellationToken {
        &self.lost
    }

    /// Why nothing can be changed any more, if so.
    pub fn why_lost(&self) -> Option<CatalogError> {
        self.why_lost.get().cloned()
    }

    /// Looks whether another server has opened the project. A store that
    /// does not answer says nothing about that.
    pub fn look(&self) {
        let number = self.number.lock();
        if let Ok(numbers) = self.folder.numbers()
            && let Some(newest) = numbers.last().copied().filter(|n| *n > *number)
            && !self.is_ours(newest)
        {
            self.lose(newest);
        }
    }

    /// Proves that up to the call no other server has opened the project.
    ///
    /// # Errors
    /// [`CatalogError::Lost`]; when the store does not answer.
    pub fn confirm(&self) -> Result<(), CatalogError> {
        let number = self.number.lock();
        let newest = self.folder.numbers()?.last().copied();
        match newest.filter(|n| *n != *number && !self.is_ours(*n)) {
            Some(newest) => Err(self.lose(newest)),
            None => Ok(()),
        }
    }

    /// Applies `change` to a copy of the project and publishes that. Durable
    /// on return. When `change` fails nothing is done.
    ///
    /// An error other than [`CatalogError::Lost`] may mean that the change
    /// was made and nobody could tell; the next one settles it. So nothing
    /// that a catalogue with the change refers to may be removed then.
    ///
    /// # Errors
    /// What `change` says; [`CatalogError`].
    pub fn change<T, E: From<CatalogError>>(
        &self,
        change: impl FnOnce(&mut Project) -> Result<T, E>,
    ) -> Result<T, E> {
        let mut number = self.number.lock();
        if let Some(lost) = self.why_lost.get() {
            return Err(lost.clone().into());
        }
        let mut next = Project::clone(&self.project());
        let done = change(&mut next)?;
        next.check().map_err(CatalogError::Invalid)?;
        self.publish(&mut number, next)?;
        Ok(done)
    }

    fn publish(&self, number: &mut u64, project: Project) -> Result<(), CatalogError> {
        let mut content = Content {
            number: *number,
            writer: self.writer.clone(),
            project,
        };
        let mut left = SYNCS_MAX;
        loop {
            content.number += 1;
            match self.folder.put(&content)? {
                Put::Exists if self.is_ours(content.number) => {
                    // An earlier attempt of ours that was called failed was
                    // made after all: this one takes its place.
                    continue;
                }
                Put::Exists => return Err(self.lose(content.number)),
                Put::Done => break,
                Put::NotSynced => {
                    left -= 1;
                    if left == 0 {
                        let name = name_of(content.number);
                        self.accept(number, content)?;
                        return Err(CatalogError::Unsure {
                            name,
                            place: self.folder.place.clone(),
                        });
                    }
                }
            }
        }
        let numbers = self.accept(number, content)?;
        self.folder.sweep(*number, &numbers);
        Ok(())
    }

    /// The document is there: it is the truth unless there is a newer one.
    /// Returns the numbers that there are.
    fn accept(&self, number: &mut u64, content: Content) -> Result<Vec<u64>, CatalogError> {
        let numbers = self.folder.numbers()?;
        if let Some(newest) = numbers.last().copied().filter(|n| *n > content.number) {
            return Err(self.lose(newest));
        }
        *number = content.number;
        *self.project.write() = Arc::new(content.project);
        Ok(numbers)
    }

    fn is_ours(&self, number: u64) -> bool {
        self.folder
            .read(number)
            .is_ok_and(|content| content.writer == self.writer)
    }

    fn lose(&self, number: u64) -> CatalogError {
        let lost = self.why_lost.get_or_init(|| self.folder.lost(number));
        self.lost.cancel();
        lost.clone()
    }
}
