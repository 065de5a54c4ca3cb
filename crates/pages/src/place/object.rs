//! An object store as a place, with a cache on local disk in front.
//!
//! A layer is written to the cache's disk and uploaded when it is finished;
//! reads fetch what is missing of it by range. Manifests are small and read
//! seldom: they pass the cache by.

use super::files::{FileReader, FileWriter, Files, Place, Put};
use std::io;
use std::sync::Arc;
use xylem_objects::{Bucket, CacheWriter, CachedObject, Created, DiskCache};

/// A place in an object store.
#[derive(Clone)]
pub struct ObjectPlace {
    cache: Arc<DiskCache>,
}

impl ObjectPlace {
    /// The bucket of `cache`.
    pub fn new(cache: Arc<DiskCache>) -> ObjectPlace {
        ObjectPlace { cache }
    }

    /// The cache in front of it.
    pub fn cache(&self) -> &Arc<DiskCache> {
        &self.cache
    }

    fn bucket(&self) -> &Bucket {
        self.cache.bucket()
    }
}

impl Place for ObjectPlace {
    fn folder(&self, name: &str) -> io::Result<Arc<dyn Files>> {
        Ok(Arc::new(ObjectFiles {
            place: self.clone(),
            folder: name.to_owned(),
        }))
    }

    fn folders(&self, within: &str) -> io::Result<Vec<String>> {
        self.bucket().folders(within)
    }

    fn remove_folder(&self, name: &str) -> io::Result<()> {
        self.bucket().delete_folder(name)?;
        self.cache.remove_folder(name);
        Ok(())
    }

    fn url(&self) -> String {
        self.bucket().url().to_owned()
    }
}

/// A folder of an object store.
pub struct ObjectFiles {
    place: ObjectPlace,
    folder: String,
}

impl ObjectFiles {
    fn object(&self, name: &str) -> String {
        format!("{}/{name}", self.folder)
    }
}

impl FileReader for CachedObject {
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        CachedObject::read_at(self, offset, out)
    }

    fn forget(&self, offset: u64, len: u64) -> bool {
        CachedObject::forget(self, offset, len);
        // Even if nothing was kept: another may have dropped it a moment ago,
        // or it went bad on its way here.
        true
    }
}

/// An object read past the cache.
struct InStore {
    bucket: Bucket,
    object: String,
}

impl FileReader for InStore {
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let range = offset..offset.saturating_add(out.len() as u64);
        let bytes = self.bucket.get_range(&self.object, range)?;
        if bytes.len() != out.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        out.copy_from_slice(&bytes);
        Ok(())
    }
}

impl FileWriter for CacheWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        CacheWriter::write(self, bytes)
    }

    fn finish(self: Box<Self>) -> io::Result<()> {
        CacheWriter::finish(*self)
    }
}

impl Files for ObjectFiles {
    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        self.place.bucket().list(&self.folder)
    }

    fn after(&self, name: &str) -> io::Result<Vec<String>> {
        self.place.bucket().list_after(&self.folder, name)
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn FileWriter>> {
        Ok(Box::new(self.place.cache.create(&self.object(name))))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn FileReader>> {
        Ok(Arc::new(self.place.cache.object(&self.object(name))?))
    }

    fn open_uncached(&self, name: &str) -> io::Result<Arc<dyn FileReader>> {
        Ok(Arc::new(InStore {
            bucket: self.place.bucket().clone(),
            object: self.object(name),
        }))
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        Ok(self.place.bucket().get(&self.object(name))?.into())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let object = self.object(name);
        self.place.bucket().delete(&object)?;
        self.place.cache.remove(&object);
        Ok(())
    }

    fn put_new(&self, name: &str, bytes: &[u8]) -> io::Result<Put> {
        let put = self
            .place
            .bucket()
            .put_new(&self.object(name), bytes.to_vec())?;
        Ok(match put {
            Created::Done => Put::Done,
            Created::Exists => Put::Exists,
        })
    }
}
