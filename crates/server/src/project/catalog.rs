//! The project's catalogue in the store: numbered documents, each created only if
//! absent. The newest is authoritative.
//!
//! Opening a project claims it: the opener publishes the next number. The previous owner
//! finds that number taken and changes nothing more. All but the last few documents are
//! removed, and with them a number that a long-superseded server would find taken. Each
//! change therefore checks, after it is written, that no newer document exists.
//!
//! A change has three outcomes: it is made, it is not made, or the store did not say
//! ([`CatalogError::Unsettled`]). In the third case the change stays pending and blocks
//! all others. [`Catalog::settle`] writes the same document again until the store
//! answers.

use super::Project;
use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};
use std::io::{Error, ErrorKind};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use xylem_ambient::Clock;
use xylem_pages::place::{Files, Place, Put};

/// The folder in the store.
pub const FOLDER: &str = "project";
/// The format version that this server writes; it refuses all others.
pub const FORMAT: u32 = 4;
const PREFIX: &str = "catalog-";
/// The number of documents that are kept, including the newest.
const KEPT: u64 = 4;
/// Attempts at a claim while other servers claim as well.
const CLAIMS_MAX: u32 = 16;
/// Attempts to follow a document of uncertain durability with another.
const SYNCS_MAX: u32 = 3;

/// The catalogue cannot be read or changed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CatalogError {
    /// The store failed.
    #[error("cannot {what} {name} in {place}: {source}")]
    Io {
        /// The operation.
        what: &'static str,
        /// The document or the folder.
        name: String,
        /// The store's URL.
        place: String,
        /// The store's error.
        source: Arc<Error>,
    },
    /// A document is damaged or of another version.
    #[error("{name} in {place}: {message}")]
    Damaged {
        /// The document.
        name: String,
        /// The store's URL.
        place: String,
        /// The problem.
        message: String,
    },
    /// This server has lost the project.
    #[error(
        "another server has opened this project (it wrote catalogue {number} in {place}): this server makes no more changes"
    )]
    Lost {
        /// The number of the other server's document.
        number: u64,
        /// The store's URL.
        place: String,
    },
    /// An invalid change, which is a bug.
    #[error("refused to write an invalid catalogue: {0}")]
    Invalid(String),
    /// A change may have been made: the store did not say, or did not confirm that it is
    /// durable.
    #[error(
        "it is unknown whether {name} is durable in {place}: {why}; the server retries until the store answers, and makes no other change before that"
    )]
    Unsettled {
        /// The document.
        name: String,
        /// The store's URL.
        place: String,
        /// The failure.
        why: String,
    },
}

/// A document as it is stored.
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
    /// A random number of 32 hexadecimal digits, which a server chooses when it opens
    /// the project, so that no two servers write equal bytes.
    writer: String,
    /// How long the writer may acknowledge commits after another server has followed
    /// this document with its own, in milliseconds.
    lease_ms: u64,
    /// The writer has stopped and acknowledges nothing more.
    released: bool,
    project: Project,
}

/// Only the version, so that a document of another version gets a clear error.
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
            "unknown format {}, this version reads {FORMAT}: use the version of xylem that wrote it",
            version.format
        ));
    }
    let document: Document = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
    let content = document.catalog;
    let crc = crc_of(&content).map_err(|e| e.to_string())?;
    if crc != document.crc32c {
        return Err(format!(
            "the document is damaged: its checksum is {crc}, and it says {}",
            document.crc32c
        ));
    }
    if content.number != number {
        return Err(format!("it contains the number {}", content.number));
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

    fn unsettled(&self, number: u64, why: String) -> CatalogError {
        CatalogError::Unsettled {
            name: name_of(number),
            place: self.place.clone(),
            why,
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

    /// The numbers of all documents, ascending.
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

    /// The newest document. If it is removed before it is read, newer ones exist, and
    /// the search starts over.
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

    /// Creates a document. `Exists`: another document has its number.
    fn put(&self, content: &Content) -> Result<Put, PutError> {
        let name = name_of(content.number);
        let bytes = render(content)
            .map_err(|e| PutError::NotThere(CatalogError::Invalid(e.to_string())))?;
        let put = match self.files.put_new(&name, &bytes) {
            Ok(Put::Exists) => Ok(Put::Exists),
            Ok(put) => return Ok(put),
            Err(error) => Err(error),
        };
        // An earlier attempt with an unknown outcome may have created the document.
        match (put, self.files.read(&name)) {
            (_, Ok(found)) if found == bytes => Ok(Put::NotSynced),
            (Ok(put), Ok(_)) => Ok(put),
            // The name is taken, and it is unknown by whom.
            (Ok(_), Err(error)) => Err(PutError::Unknown(error.to_string())),
            (Err(error), Err(none))
                if none.kind() == ErrorKind::NotFound
                    && !xylem_objects::outcome_unknown(&error) =>
            {
                Err(PutError::NotThere(self.io("create", &name)(error)))
            }
            (Err(error), _) => Err(PutError::Unknown(error.to_string())),
        }
    }

    /// Removes all but the last few documents. Best effort: a later sweep removes what
    /// stays.
    fn sweep(&self, newest: u64, numbers: &[u64]) {
        let oldest = newest.saturating_sub(KEPT - 1);
        for number in numbers.iter().filter(|number| **number < oldest) {
            let _ = self.files.remove(&name_of(*number));
        }
    }
}

/// A document was not created.
enum PutError {
    /// The document does not exist, and no request under way can create it.
    NotThere(CatalogError),
    /// The document may exist, or may still be created.
    Unknown(String),
}

/// A project as a server finds it in the store.
#[derive(Clone, Debug)]
pub struct Found {
    /// The project.
    pub project: Project,
    /// How long the last owner may still acknowledge commits once another server has
    /// claimed the project.
    pub lease: Duration,
}

impl From<Content> for Found {
    fn from(content: Content) -> Found {
        Found {
            lease: content.lease(),
            project: content.project,
        }
    }
}

impl Content {
    fn lease(&self) -> Duration {
        match self.released {
            true => Duration::ZERO,
            false => Duration::from_millis(self.lease_ms),
        }
    }
}

/// Reads the newest catalogue among `files` without claiming it; `None` when there is
/// no catalogue. `place` names the store in errors.
///
/// # Errors
/// The store fails, or the document is damaged or of another version.
pub fn read_files(files: Arc<dyn Files>, place: String) -> Result<Option<Project>, CatalogError> {
    let newest = Folder { files, place }.newest()?;
    Ok(newest.map(|content| content.project))
}

/// Reads the newest catalogue in `place` without claiming it; `None` when there is no
/// catalogue.
///
/// # Errors
/// As for [`read_files`].
pub fn read(place: &dyn Place) -> Result<Option<Found>, CatalogError> {
    Ok(Folder::open(place)?.newest()?.map(Found::from))
}

/// Whether `place` has a catalogue.
///
/// # Errors
/// The store fails.
pub fn exists(place: &dyn Place) -> Result<bool, CatalogError> {
    Ok(!Folder::open(place)?.numbers()?.is_empty())
}

/// A catalogue that this server has claimed. Methods that reach the store block.
pub struct Catalog {
    folder: Folder,
    writer: String,
    /// Held while a document is written.
    state: Mutex<State>,
    /// Under a lock of its own, so that readers do not wait for the store.
    project: RwLock<Arc<Project>>,
    /// The ownership lease of the previous owner.
    found_lease: Duration,
    /// The start of the last request by which the store confirmed that this server owns
    /// the project.
    proved: Mutex<Instant>,
    clock: Clock,
    /// Notified at each confirmation.
    renewed: watch::Sender<()>,
    why_lost: OnceLock<CatalogError>,
    lost: CancellationToken,
}

struct State {
    /// The number of the newest document.
    number: u64,
    /// The ownership lease that this server writes into documents.
    lease: Duration,
    /// A document with an unknown outcome.
    pending: Option<Pending>,
}

/// A server that wants to own a project.
#[derive(Clone, Debug)]
pub struct Claimant {
    /// A random number, which distinguishes the server's documents from those of others.
    pub writer: u128,
    /// How long the server may acknowledge commits once another server has claimed the
    /// project.
    pub lease: Duration,
    /// The server's clock, which measures the age of the store's answers.
    pub clock: Clock,
}

struct Pending {
    content: Content,
    why: CatalogError,
}

impl Catalog {
    /// Claims the project in `place`; `None` when there is no project. The claim's lease
    /// is no shorter than that of the previous owner, which may still be in force.
    ///
    /// # Errors
    /// The store fails, or the newest document is damaged or of another version.
    pub fn claim(place: &dyn Place, claimant: Claimant) -> Result<Option<Catalog>, CatalogError> {
        let lease = claimant.lease;
        let folder = Folder::open(place)?;
        let mut tries = 0;
        loop {
            let Some(newest) = folder.newest()? else {
                return Ok(None);
            };
            let found = newest.lease();
            let catalog = Catalog {
                found_lease: found,
                ..Catalog::with(
                    Folder::open(place)?,
                    Claimant {
                        lease: lease.max(found),
                        ..claimant.clone()
                    },
                    newest.number,
                    newest.project,
                )
            };
            match catalog.change(|_| Ok::<(), CatalogError>(())) {
                Ok(()) => {
                    catalog.state.lock().lease = lease;
                    return Ok(Some(catalog));
                }
                // Other servers open the project as well; the last one owns it.
                Err(CatalogError::Lost { .. }) if tries < CLAIMS_MAX => tries += 1,
                Err(error) => return Err(error),
            }
        }
    }

    /// Writes `project` as the first catalogue of `place`, and claims it.
    ///
    /// # Errors
    /// [`CatalogError::Lost`] when a catalogue exists by now, or the store fails.
    pub fn create(
        place: &dyn Place,
        claimant: Claimant,
        project: Project,
    ) -> Result<Catalog, CatalogError> {
        let catalog = Catalog::with(Folder::open(place)?, claimant, 0, project);
        catalog.change(|_| Ok::<(), CatalogError>(()))?;
        Ok(catalog)
    }

    fn with(folder: Folder, claimant: Claimant, number: u64, project: Project) -> Catalog {
        Catalog {
            folder,
            writer: format!("{:032x}", claimant.writer),
            state: Mutex::new(State {
                number,
                lease: claimant.lease,
                pending: None,
            }),
            project: RwLock::new(Arc::new(project)),
            found_lease: Duration::ZERO,
            proved: Mutex::new(claimant.clock.instant()),
            clock: claimant.clock,
            renewed: watch::Sender::new(()),
            why_lost: OnceLock::new(),
            lost: CancellationToken::new(),
        }
    }

    /// Writes `lease` into documents from the next change on.
    pub fn promise(&self, lease: Duration) {
        self.state.lock().lease = lease;
    }

    /// The project as of the last change.
    pub fn project(&self) -> Arc<Project> {
        Arc::clone(&self.project.read())
    }

    /// The number of the newest document: greater than that of any document which a
    /// previous owner wrote.
    pub fn number(&self) -> u64 {
        self.state.lock().number
    }

    /// How long the previous owner may acknowledge commits, counted from the claim.
    pub fn found_lease(&self) -> Duration {
        self.found_lease
    }

    /// Cancelled when another server has opened the project.
    pub fn lost(&self) -> &CancellationToken {
        &self.lost
    }

    /// The error of all further changes once another server owns the project.
    pub fn why_lost(&self) -> Option<CatalogError> {
        self.why_lost.get().cloned()
    }

    /// The age of the store's last confirmation that this server owns the project,
    /// counted from the request.
    pub fn proof_age(&self) -> Duration {
        self.clock.since(*self.proved.lock())
    }

    /// Wakes at each new confirmation of ownership.
    pub fn renewals(&self) -> watch::Receiver<()> {
        self.renewed.subscribe()
    }

    fn proved(&self, asked: Instant) {
        let mut proved = self.proved.lock();
        *proved = asked.max(*proved);
        drop(proved);
        self.renewed.send_replace(());
    }

    /// Proves that no other server had opened the project by the time of the call.
    ///
    /// # Errors
    /// [`CatalogError::Lost`] when another server has. Any other error means that the
    /// store did not answer, and proves nothing.
    pub fn look(&self) -> Result<(), CatalogError> {
        let state = self.state.lock();
        if let Some(lost) = self.why_lost.get() {
            return Err(lost.clone());
        }
        let asked = self.clock.instant();
        let numbers = self.folder.numbers()?;
        if let Some(newest) = numbers.last().copied().filter(|n| *n > state.number)
            && !self.is_ours(newest)?
        {
            return Err(self.lose(newest));
        }
        self.proved(asked);
        Ok(())
    }

    /// Applies `change` to a copy of the project and publishes the copy. The change is
    /// durable on return. If `change` fails, nothing is written.
    ///
    /// # Errors
    /// The error of `change`, or [`CatalogError`]. After [`CatalogError::Unsettled`] the
    /// change may have been made, or may still be made. Call [`Catalog::settle`] to find
    /// out; until then all further changes fail.
    pub fn change<T, E: From<CatalogError>>(
        &self,
        change: impl FnOnce(&mut Project) -> Result<T, E>,
    ) -> Result<T, E> {
        let mut state = self.state.lock();
        self.changeable(&state)?;
        let mut next = Project::clone(&self.project());
        let done = change(&mut next)?;
        next.check().map_err(CatalogError::Invalid)?;
        self.publish(&mut state, next, false)?;
        Ok(done)
    }

    /// Records that this server acknowledges nothing more, so that the next one need not
    /// wait.
    ///
    /// # Errors
    /// As for [`Catalog::change`]; then the next server waits.
    pub fn release(&self) -> Result<(), CatalogError> {
        let mut state = self.state.lock();
        self.changeable(&state)?;
        let project = Project::clone(&self.project());
        self.publish(&mut state, project, true)
    }

    /// Retries an unsettled change; on success the change is made. Does nothing if no
    /// change is unsettled.
    ///
    /// # Errors
    /// [`CatalogError::Unsettled`] while the store does not answer.
    /// [`CatalogError::Lost`] when another server owns the project; its catalogue then
    /// tells whether the change was made.
    pub fn settle(&self) -> Result<(), CatalogError> {
        let mut state = self.state.lock();
        if let Some(lost) = self.why_lost.get() {
            return Err(lost.clone());
        }
        match state.pending.take() {
            None => Ok(()),
            Some(pending) => self.write(&mut state, pending.content, true),
        }
    }

    fn changeable(&self, state: &State) -> Result<(), CatalogError> {
        if let Some(lost) = self.why_lost.get() {
            return Err(lost.clone());
        }
        match &state.pending {
            Some(pending) => Err(pending.why.clone()),
            None => Ok(()),
        }
    }

    fn publish(
        &self,
        state: &mut State,
        project: Project,
        released: bool,
    ) -> Result<(), CatalogError> {
        let lease = u64::try_from(state.lease.as_millis()).unwrap_or(u64::MAX);
        let content = Content {
            number: state.number + 1,
            writer: self.writer.clone(),
            lease_ms: lease,
            released,
            project,
        };
        self.write(state, content, false)
    }

    /// Writes `content` under its number, or under a later one if this server itself took
    /// that number. `landed`: an earlier attempt may have succeeded.
    fn write(
        &self,
        state: &mut State,
        mut content: Content,
        mut landed: bool,
    ) -> Result<(), CatalogError> {
        let mut left = SYNCS_MAX;
        loop {
            match self.folder.put(&content) {
                Ok(Put::Done) => break,
                Ok(Put::NotSynced) => {
                    landed = true;
                    left -= 1;
                    if left == 0 {
                        let why = "its disk does not confirm that the file is durable".to_owned();
                        return Err(self.pend(state, content, why));
                    }
                    content.number += 1;
                }
                Ok(Put::Exists) => match self.is_ours(content.number) {
                    // An earlier attempt of this server was reported as failed but
                    // succeeded. This document supersedes it.
                    Ok(true) => content.number += 1,
                    Ok(false) => return Err(self.lose(content.number)),
                    Err(error) => return Err(self.pend(state, content, error.to_string())),
                },
                Err(PutError::NotThere(error)) if !landed => return Err(error),
                Err(PutError::NotThere(error)) => {
                    return Err(self.pend(state, content, error.to_string()));
                }
                Err(PutError::Unknown(why)) => return Err(self.pend(state, content, why)),
            }
        }
        // The document is authoritative unless a newer one exists.
        let asked = self.clock.instant();
        let numbers = match self.folder.numbers() {
            Ok(numbers) => numbers,
            Err(error) => return Err(self.pend(state, content, error.to_string())),
        };
        if let Some(newest) = numbers.last().copied().filter(|n| *n > content.number) {
            return Err(self.lose(newest));
        }
        state.number = content.number;
        *self.project.write() = Arc::new(content.project);
        self.proved(asked);
        self.folder.sweep(state.number, &numbers);
        Ok(())
    }

    /// Keeps `content` for [`Catalog::settle`].
    fn pend(&self, state: &mut State, content: Content, why: String) -> CatalogError {
        let why = self.folder.unsettled(content.number, why);
        state.pending = Some(Pending {
            content,
            why: why.clone(),
        });
        why
    }

    /// Whether this server wrote the document `number`. A document that this version
    /// cannot parse belongs to another server.
    ///
    /// # Errors
    /// The document cannot be read, so its writer is unknown.
    fn is_ours(&self, number: u64) -> Result<bool, CatalogError> {
        match self.folder.read(number) {
            Ok(content) => Ok(content.writer == self.writer),
            Err(CatalogError::Damaged { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn lose(&self, number: u64) -> CatalogError {
        let lost = self.why_lost.get_or_init(|| self.folder.lost(number));
        self.lost.cancel();
        // Wakes tasks that wait for a confirmation, which will not come.
        self.renewed.send_replace(());
        lost.clone()
    }
}
