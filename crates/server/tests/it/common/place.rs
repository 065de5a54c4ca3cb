//! A store in memory that can be shared, watched, and made to fail.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::sync::{Arc, Mutex};
use xylem_pages::place::{FileReader, FileWriter, Files, Place, Put};

type Objects = Arc<Mutex<BTreeMap<String, Arc<Vec<u8>>>>>;

/// Called before each step; decides its outcome.
pub type Hook = Arc<dyn Fn(&Step) -> Fate + Send + Sync>;

/// Whether the object with this name can be read or listed now.
pub type Sight = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// A step that changes the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    Put(String),
    Remove(String),
}

/// The outcome of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Done,
    /// The step is not done, and the error says so.
    Fails,
    /// The step is done, and the error says that the outcome is unknown.
    Unknown,
    /// The step is done, and the store does not answer.
    Unheard,
    /// The step is not done, and the store does not answer.
    Unsent,
}

/// The error of a store's client for a write with an unknown outcome.
fn unheard(name: &str) -> io::Error {
    xylem_objects::ObjectError {
        reason: xylem_objects::Reason::Unavailable,
        operation: "create",
        url: "mem://test".to_owned(),
        name: name.to_owned(),
        attempts: 1,
        elapsed: std::time::Duration::ZERO,
        outcome_unknown: true,
        source: "no answer in this test".into(),
    }
    .into()
}

/// A store. Clones share its objects; each has its own hook.
#[derive(Clone)]
pub struct MemPlace {
    objects: Objects,
    hook: Option<Hook>,
    sight: Option<Sight>,
}

impl MemPlace {
    pub fn new() -> MemPlace {
        MemPlace {
            objects: Objects::default(),
            hook: None,
            sight: None,
        }
    }

    /// The same store for another server, with its own hook.
    pub fn hooked(&self, hook: impl Fn(&Step) -> Fate + Send + Sync + 'static) -> MemPlace {
        MemPlace {
            objects: Arc::clone(&self.objects),
            hook: Some(Arc::new(hook)),
            sight: self.sight.clone(),
        }
    }

    /// The same store for a server that can read and list only names for which `sight`
    /// returns true.
    pub fn sighted(&self, sight: impl Fn(&str) -> bool + Send + Sync + 'static) -> MemPlace {
        MemPlace {
            sight: Some(Arc::new(sight)),
            ..self.clone()
        }
    }

    fn see(&self, name: &str) -> io::Result<()> {
        match self.sight.as_ref().is_none_or(|sight| sight(name)) {
            true => Ok(()),
            false => Err(io::Error::other(format!("{name} is not seen in this test"))),
        }
    }

    pub fn shared(&self) -> Arc<dyn Place> {
        Arc::new(self.clone())
    }

    /// An independent copy of the store.
    pub fn copy(&self) -> MemPlace {
        let objects = self.objects.lock().unwrap().clone();
        MemPlace {
            objects: Arc::new(Mutex::new(objects)),
            hook: None,
            sight: None,
        }
    }

    /// The names of all objects.
    pub fn names(&self) -> Vec<String> {
        self.objects.lock().unwrap().keys().cloned().collect()
    }

    pub fn get(&self, name: &str) -> Option<Arc<Vec<u8>>> {
        self.objects.lock().unwrap().get(name).cloned()
    }

    pub fn set(&self, name: &str, bytes: &[u8]) {
        let bytes = Arc::new(bytes.to_vec());
        self.objects.lock().unwrap().insert(name.to_owned(), bytes);
    }

    fn step<T>(&self, step: Step, act: impl FnOnce() -> T) -> io::Result<T> {
        let failed = || io::Error::other(format!("{step:?} fails in this test"));
        match self.hook.as_ref().map_or(Fate::Done, |hook| hook(&step)) {
            Fate::Done => Ok(act()),
            Fate::Fails => Err(failed()),
            Fate::Unknown => {
                act();
                Err(failed())
            }
            Fate::Unheard => {
                act();
                Err(unheard(&format!("{step:?}")))
            }
            Fate::Unsent => Err(unheard(&format!("{step:?}"))),
        }
    }
}

impl Place for MemPlace {
    fn folder(&self, name: &str) -> io::Result<Arc<dyn Files>> {
        Ok(Arc::new(Folder {
            place: self.clone(),
            name: name.to_owned(),
        }))
    }

    fn folders(&self, within: &str) -> io::Result<Vec<String>> {
        self.see(within)?;
        let prefix = format!("{within}/");
        let names = self.names();
        let mut found: Vec<String> = names
            .iter()
            .filter_map(|name| name.strip_prefix(&prefix)?.split_once('/'))
            .map(|(folder, _)| folder.to_owned())
            .collect();
        found.dedup();
        Ok(found)
    }

    fn remove_folder(&self, name: &str) -> io::Result<()> {
        let prefix = format!("{name}/");
        for name in self.names() {
            if name.starts_with(&prefix) {
                self.step(Step::Remove(name.clone()), || {
                    self.objects.lock().unwrap().remove(&name);
                })?;
            }
        }
        Ok(())
    }

    fn url(&self) -> String {
        "mem://test".to_owned()
    }
}

struct Folder {
    place: MemPlace,
    name: String,
}

impl Folder {
    fn full(&self, name: &str) -> String {
        format!("{}/{name}", self.name)
    }

    fn object(&self, name: &str) -> io::Result<Arc<Vec<u8>>> {
        self.place.see(&self.full(name))?;
        self.place
            .get(&self.full(name))
            .ok_or_else(|| ErrorKind::NotFound.into())
    }
}

impl Files for Folder {
    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        self.place.see(&self.name)?;
        let objects = self.place.objects.lock().unwrap();
        let prefix = format!("{}/", self.name);
        let all = objects.iter();
        Ok(all
            .filter_map(|(name, bytes)| {
                let name = name.strip_prefix(&prefix).filter(|n| !n.contains('/'))?;
                Some((name.to_owned(), bytes.len() as u64))
            })
            .collect())
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn FileWriter>> {
        Ok(Box::new(Writer {
            place: self.place.clone(),
            name: self.full(name),
            bytes: Vec::new(),
        }))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn FileReader>> {
        Ok(Arc::new(Reader(self.object(name)?)))
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        Ok(self.object(name)?.to_vec())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let name = self.full(name);
        self.place.step(Step::Remove(name.clone()), || {
            self.place.objects.lock().unwrap().remove(&name);
        })
    }

    fn put_new(&self, name: &str, bytes: &[u8]) -> io::Result<Put> {
        let name = self.full(name);
        self.place.step(Step::Put(name.clone()), || {
            let mut objects = self.place.objects.lock().unwrap();
            if objects.contains_key(&name) {
                return Put::Exists;
            }
            objects.insert(name, Arc::new(bytes.to_vec()));
            Put::Done
        })
    }
}

struct Writer {
    place: MemPlace,
    name: String,
    bytes: Vec<u8>,
}

impl FileWriter for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn finish(self: Box<Self>) -> io::Result<()> {
        let step = Step::Put(self.name.clone());
        self.place
            .step(step, || self.place.set(&self.name, &self.bytes))
    }
}

struct Reader(Arc<Vec<u8>>);

impl FileReader for Reader {
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let start = usize::try_from(offset).unwrap();
        let part = self.0.get(start..start + out.len());
        out.copy_from_slice(part.ok_or(ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}
