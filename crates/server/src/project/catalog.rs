//! The project's catalogue in the store: numbered documents, created only if
//! absent, the newest the truth.
//!
//! Opening a project claims it: the opener publishes the next number. Whoever
//! had it before finds that number taken and changes nothing more. Documents
//! beyond the last few are removed, and with them the number that a server of
//! long ago would find taken; so each change looks, once it is written,
//! whether there is a newer one.
//!
//! A change has three outcomes: it is made, it is not made, or the store did
//! not say ([`CatalogError::Unsettled`]). The last one stays pending: nothing
//! else is changed before [`Catalog::settle`] has found out, which it does by
//! writing the same document again until the store answers.

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
/// The version of the format that is written; others are refused.
pub const FORMAT: u32 = 4;
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
    /// A change may be in place: the store did not say, or did not make
    /// certain that it stays.
    #[error(
        "it is not known whether {name} is in {place} for good: {why}; the server asks again until the store answers, and makes no other change before"
    )]
    Unsettled {
        /// Which document.
        name: String,
        /// Where.
        place: String,
        /// What went wrong.
        why: String,
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
    /// How long after this document was followed by another server's its
    /// writer may acknowledge commits, in milliseconds.
    lease_ms: u64,
    /// Its writer has stopped and acknowledges nothing more.
    released: bool,
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
    fn put(&self, content: &Content) -> Result<Put, PutError> {
        let name = name_of(content.number);
        let bytes = render(content)
            .map_err(|e| PutError::NotThere(CatalogError::Invalid(e.to_string())))?;
        let put = match self.files.put_new(&name, &bytes) {
            Ok(Put::Exists) => Ok(Put::Exists),
            Ok(put) => return Ok(put),
            Err(error) => Err(error),
        };
        // An attempt whose outcome was not known may have made it.
        match (put, self.files.read(&name)) {
            (_, Ok(found)) if found == bytes => Ok(Put::NotSynced),
            (Ok(put), Ok(_)) => Ok(put),
            // Somebody has the name, and nobody says who.
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

    /// Removes documents before the last few. What stays is removed later.
    fn sweep(&self, newest: u64, numbers: &[u64]) {
        let oldest = newest.saturating_sub(KEPT - 1);
        for number in numbers.iter().filter(|number| **number < oldest) {
            let _ = self.files.remove(&name_of(*number));
        }
    }
}

/// A document was not created.
enum PutError {
    /// It is not there, and nothing is on its way that could make it.
    NotThere(CatalogError),
    /// It may be there, or may still come.
    Unknown(String),
}

/// What a server finds that opens a project.
#[derive(Clone, Debug)]
pub struct Found {
    /// The project.
    pub project: Project,
    /// How long the last owner may still acknowledge commits once another
    /// server has claimed the project.
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
pub fn read(place: &dyn Place) -> Result<Option<Found>, CatalogError> {
    Ok(Folder::open(place)?.newest()?.map(Found::from))
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
    /// Held while a document is written.
    state: Mutex<State>,
    /// By itself: who asks for it does not wait for the store.
    project: RwLock<Arc<Project>>,
    /// What the owner before may still do after the claim.
    found_lease: Duration,
    /// When the store was last asked, and then said that the project is this
    /// server's.
    proved: Mutex<Instant>,
    clock: Clock,
    /// Sent to at each such answer.
    renewed: watch::Sender<()>,
    why_lost: OnceLock<CatalogError>,
    lost: CancellationToken,
}

struct State {
    /// The number of the newest document.
    number: u64,
    /// What this server promises of itself, for how long.
    lease: Duration,
    /// A document that may be there.
    pending: Option<Pending>,
}

/// A server that wants to own a project.
#[derive(Clone, Debug)]
pub struct Claimant {
    /// A random number, which tells its documents from those of others.
    pub writer: u128,
    /// How long it may acknowledge commits once another server has claimed the
    /// project.
    pub lease: Duration,
    /// Its clock, which says how old an answer of the store is.
    pub clock: Clock,
}

struct Pending {
    content: Content,
    why: CatalogError,
}

impl Catalog {
    /// Claims the project in `place`; none when there is none. The claim itself
    /// promises no less than the owner before did, whose promise may still
    /// bind.
    ///
    /// # Errors
    /// When the store fails, or the newest document is damaged or of another
    /// version.
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

    /// Promises `lease` from the next change on.
    pub fn promise(&self, lease: Duration) {
        self.state.lock().lease = lease;
    }

    /// The project as of the last change.
    pub fn project(&self) -> Arc<Project> {
        Arc::clone(&self.project.read())
    }

    /// The number of the newest document: greater than any that a server had
    /// which opened the project before.
    pub fn number(&self) -> u64 {
        self.state.lock().number
    }

    /// How long the owner before may acknowledge commits, counted from the
    /// claim.
    pub fn found_lease(&self) -> Duration {
        self.found_lease
    }

    /// Cancelled when another server has opened the project.
    pub fn lost(&self) -> &CancellationToken {
        &self.lost
    }

    /// Why nothing can be changed any more, if so.
    pub fn why_lost(&self) -> Option<CatalogError> {
        self.why_lost.get().cloned()
    }

    /// How long ago this server asked the store for the last time that then
    /// said the project is its own.
    pub fn proof_age(&self) -> Duration {
        self.clock.since(*self.proved.lock())
    }

    /// Wakes whenever the store has said so again.
    pub fn renewals(&self) -> watch::Receiver<()> {
        self.renewed.subscribe()
    }

    fn proved(&self, asked: Instant) {
        let mut proved = self.proved.lock();
        *proved = asked.max(*proved);
        drop(proved);
        self.renewed.send_replace(());
    }

    /// Proves that up to the call no other server has opened the project.
    ///
    /// # Errors
    /// [`CatalogError::Lost`] when one has. Anything else is a store that does
    /// not answer, and says nothing about that.
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

    /// Applies `change` to a copy of the project and publishes that. Durable
    /// on return. When `change` fails nothing is done.
    ///
    /// # Errors
    /// What `change` says; [`CatalogError`]. After
    /// [`CatalogError::Unsettled`] the change may have been made, or may be
    /// made yet: [`Catalog::settle`] finds out, and until it has, nothing is
    /// changed.
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

    /// Notes that this server acknowledges nothing more, so that the next one
    /// need not wait.
    ///
    /// # Errors
    /// As for [`Catalog::change`]; then the next one waits.
    pub fn release(&self) -> Result<(), CatalogError> {
        let mut state = self.state.lock();
        self.changeable(&state)?;
        let project = Project::clone(&self.project());
        self.publish(&mut state, project, true)
    }

    /// Finds out what became of a change whose outcome was not known. It is
    /// made on return. Nothing is done when there is none.
    ///
    /// # Errors
    /// [`CatalogError::Unsettled`] while the store does not say;
    /// [`CatalogError::Lost`] when another server has the project: then it
    /// knows what became of it.
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

    /// Writes `content` under its number or, if that is this server's own, a
    /// later one. `landed`: an earlier attempt may have made it.
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
                        let why = "its disk does not make certain that it stays".to_owned();
                        return Err(self.pend(state, content, why));
                    }
                    content.number += 1;
                }
                Ok(Put::Exists) => match self.is_ours(content.number) {
                    // An earlier attempt of ours that was called failed was
                    // made after all: this one takes its place.
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
        // It is the truth unless there is a newer one.
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

    /// Whether this server wrote a document that is there.
    ///
    /// # Errors
    /// When it cannot be read: that says nothing. One that this version does
    /// not understand is another's.
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
        // Wakes those that wait for a proof that will not come.
        self.renewed.send_replace(());
        lost.clone()
    }
}
