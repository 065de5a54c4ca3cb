//! Reads of what is known of tablespaces.

use super::shared::Shared;
use crate::api::{ReadAt, Tablespace};
use crate::error::ReadError;
use crate::layer::catalog::SpaceInfo;
use crate::layer::key::{TAG_SPACE, relative, space_of};
use xylem_types::{Lsn, PageId, SpaceId};

/// Bytes of a file's name: what Linux and its file systems take.
const NAME_MAX: usize = 255;

/// Whether a file can have this path. InnoDB writes redo that creates a tablespace
/// before it makes the file; when the name is too long for any file system, it
/// never was there, even if no deletion was written because InnoDB ended then.
fn can_be_a_file(path: &str) -> bool {
    path.split('/').all(|part| part.len() <= NAME_MAX)
}

impl Shared {
    fn tablespace(
        &self,
        space: SpaceId,
        info: &SpaceInfo,
        lsn: Lsn,
    ) -> Result<Option<Tablespace>, ReadError> {
        // Created, but its first page is not written yet: no reader can use it.
        if !info.exists || info.pages == 0 || !can_be_a_file(&info.path) {
            return Ok(None);
        }
        let page_bytes = self
            .resources
            .engine
            .page_bytes(info.flags)
            .map_err(|message| ReadError::Corrupt {
                page: PageId {
                    space,
                    ..PageId::default()
                },
                lsn,
                message,
            })?;
        Ok(Some(Tablespace {
            space,
            path: info.path.clone(),
            flags: info.flags,
            pages: info.pages,
            page_bytes: page_bytes as u32,
        }))
    }

    /// All tablespaces, by id. One whose first page is not written yet is left
    /// out. Blocking.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub(crate) fn tablespaces(&self, at: ReadAt) -> Result<Vec<Tablespace>, ReadError> {
        let lsn = self.resolve(at)?;
        let layers = self.snapshot_at(lsn)?;
        let view = layers.view(self.source());
        let (mut after, end) = (vec![TAG_SPACE], [TAG_SPACE + 1]);
        let mut out = Vec::new();
        loop {
            let keys = view.keys(&after, &end, lsn)?;
            let Some(last) = keys.last() else {
                return Ok(out);
            };
            after.clone_from(last);
            for space in keys.iter().filter_map(|k| space_of(k)) {
                if let Some((_, info)) = view.space(space, lsn)? {
                    out.extend(self.tablespace(space, &info, lsn)?);
                }
            }
        }
    }

    /// The tablespace whose file is `path`. Blocking.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub(crate) fn tablespace_by_path(
        &self,
        path: &str,
        at: ReadAt,
    ) -> Result<Option<Tablespace>, ReadError> {
        let lsn = self.resolve(at)?;
        let layers = self.snapshot_at(lsn)?;
        let view = layers.view(self.source());
        let path = relative(path);
        let Some(space) = view.path_owner(path, lsn)? else {
            return Ok(None);
        };
        match view.space(space, lsn)? {
            Some((_, info)) => self.tablespace(space, &info, lsn),
            None => Ok(None),
        }
    }

    /// One tablespace by its id. Blocking.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub(crate) fn tablespace_by_id(
        &self,
        space: SpaceId,
        at: ReadAt,
    ) -> Result<Option<Tablespace>, ReadError> {
        let lsn = self.resolve(at)?;
        let layers = self.snapshot_at(lsn)?;
        match layers.view(self.source()).space(space, lsn)? {
            Some((_, info)) => self.tablespace(space, &info, lsn),
            None => Ok(None),
        }
    }
}
