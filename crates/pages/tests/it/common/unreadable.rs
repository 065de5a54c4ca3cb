//! A place on a disk that cannot read some of its files.

use std::io;
use std::sync::Arc;
use xylem_pages::place::{FileReader, FileWriter, Files, Place, Put};

/// The system's error for a sector that cannot be read: EIO.
const EIO: i32 = 5;

/// Says of a file's name whether reads of it fail now.
pub type IsBad = Arc<dyn Fn(&str) -> bool + Send + Sync>;

pub struct Unreadable {
    pub place: Arc<dyn Place>,
    pub is_bad: IsBad,
}

struct Folder {
    files: Arc<dyn Files>,
    is_bad: IsBad,
}

struct Reader {
    name: String,
    file: Arc<dyn FileReader>,
    is_bad: IsBad,
}

impl Place for Unreadable {
    fn folder(&self, name: &str) -> io::Result<Arc<dyn Files>> {
        Ok(Arc::new(Folder {
            files: self.place.folder(name)?,
            is_bad: Arc::clone(&self.is_bad),
        }))
    }
    fn folders(&self, within: &str) -> io::Result<Vec<String>> {
        self.place.folders(within)
    }
    fn remove_folder(&self, name: &str) -> io::Result<()> {
        self.place.remove_folder(name)
    }
    fn url(&self) -> String {
        self.place.url()
    }
}

impl Files for Folder {
    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        self.files.list()
    }
    fn create(&self, name: &str) -> io::Result<Box<dyn FileWriter>> {
        self.files.create(name)
    }
    fn open(&self, name: &str) -> io::Result<Arc<dyn FileReader>> {
        Ok(Arc::new(Reader {
            name: name.to_owned(),
            file: self.files.open(name)?,
            is_bad: Arc::clone(&self.is_bad),
        }))
    }
    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        self.files.read(name)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.files.remove(name)
    }
    fn put_new(&self, name: &str, bytes: &[u8]) -> io::Result<Put> {
        self.files.put_new(name, bytes)
    }
}

impl FileReader for Reader {
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        match (self.is_bad)(&self.name) {
            true => Err(io::Error::from_raw_os_error(EIO)),
            false => self.file.read_at(offset, out),
        }
    }
}
