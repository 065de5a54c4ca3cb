//! The interface to the place where the page store's files live.

use std::io;
use std::sync::Arc;
use xylem_types::BranchId;

/// A finished file.
pub trait FileReader: Send + Sync {
    /// Fills `out` from byte `offset` on.
    ///
    /// # Errors
    /// When the file ends before, or cannot be read.
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()>;

    /// Drops a local copy of these bytes, which were found bad. Returns whether
    /// there was one, so that reading again makes sense.
    fn forget(&self, offset: u64, len: u64) -> bool {
        let _ = (offset, len);
        false
    }
}

/// A file being written, front to back.
pub trait FileWriter: Send {
    /// Appends `bytes`.
    ///
    /// # Errors
    /// When the disk is full, or the write fails.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Makes the file durable under its name.
    ///
    /// # Errors
    /// When that is not certain; the file must then not be referred to.
    fn finish(self: Box<Self>) -> io::Result<()>;
}

/// The outcome of [`Files::put_new`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// It is there and durable.
    Done,
    /// It is there; whether it survives a power failure is not certain.
    NotSynced,
    /// The name was taken; nothing was changed.
    Exists,
}

/// Where everything durable of a project lives.
pub trait Place: Send + Sync {
    /// The folder `name`, such as `branches/0123…`; it need not exist yet.
    ///
    /// # Errors
    /// As the system says.
    fn folder(&self, name: &str) -> io::Result<Arc<dyn Files>>;

    /// Names of the folders directly in the folder `within`. Some of them may
    /// be empty.
    ///
    /// # Errors
    /// As the system says.
    fn folders(&self, within: &str) -> io::Result<Vec<String>>;

    /// Removes the folder `name` and its files. One that is not there is no
    /// error. It may leave some behind on an error; called again it goes on.
    ///
    /// # Errors
    /// As the system says.
    fn remove_folder(&self, name: &str) -> io::Result<()>;

    /// Its URL, for people.
    fn url(&self) -> String;

    /// Whether no other process can have the place open meanwhile.
    fn is_exclusive(&self) -> bool {
        false
    }
}

/// A folder's files.
pub trait Files: Send + Sync {
    /// Names and sizes of all of them.
    ///
    /// # Errors
    /// As the system says.
    fn list(&self) -> io::Result<Vec<(String, u64)>>;

    /// Names that come after `name` in the order of their bytes. Costs what the
    /// answer has, not what the folder has, where the store can do that.
    ///
    /// # Errors
    /// As the system says.
    fn after(&self, name: &str) -> io::Result<Vec<String>> {
        let all = self.list()?.into_iter();
        Ok(all.map(|(n, _)| n).filter(|n| n.as_str() > name).collect())
    }

    /// Begins the file `name`.
    ///
    /// # Errors
    /// When the name is taken, or as the system says. An object store says that
    /// a name is taken when the file is finished.
    fn create(&self, name: &str) -> io::Result<Box<dyn FileWriter>>;

    /// Opens a finished file for reading.
    ///
    /// # Errors
    /// As the system says.
    fn open(&self, name: &str) -> io::Result<Arc<dyn FileReader>>;

    /// Opens a finished file for reading past every cache, so that a check sees
    /// the durable bytes.
    ///
    /// # Errors
    /// As the system says.
    fn open_uncached(&self, name: &str) -> io::Result<Arc<dyn FileReader>> {
        self.open(name)
    }

    /// Reads a whole small file.
    ///
    /// # Errors
    /// As the system says.
    fn read(&self, name: &str) -> io::Result<Vec<u8>>;

    /// Removes a file. One that is not there is no error.
    ///
    /// # Errors
    /// As the system says.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Creates `name` with `bytes`, whole or not at all, unless it is there.
    ///
    /// # Errors
    /// When nothing was created; or when an object store did not answer until
    /// the time for that was over, and it is not known. Then the same call with
    /// the same bytes settles it, and [`xylem_objects::outcome_unknown`] is true
    /// of the error.
    fn put_new(&self, name: &str, bytes: &[u8]) -> io::Result<Put>;
}

/// The folder of a branch's layers and manifests.
pub(crate) fn branch_folder(id: BranchId) -> String {
    format!("branches/{id}")
}
