//! Images that upkeep makes of keys whose chains have grown long.
//!
//! They bound what a reader applies: of each run at most as much as makes a
//! chain long. What an image costs, to read the key as it is in all layers and
//! to write it, was paid for by as much redo. Nothing depends on it: the
//! versions that it is made of stay.

use crate::api::Reach;
use crate::branch::build::{Built, Wanted};
use crate::branch::shared::Shared;
use crate::error::ReadError;
use crate::layer::catalog::SpaceInfo;
use crate::layer::format::Summary;
use crate::layer::key::{Key, page_of};
use xylem_types::Lsn;

/// Whether a chain should end in an image.
pub(super) fn is_long(shared: &Shared, chain: Summary) -> bool {
    let config = &shared.resources.config;
    u64::from(chain.bytes) > config.image_after_bytes || chain.versions > config.image_after_mtrs
}

/// Makes the images of one piece of a merge.
pub(super) struct Images<'a> {
    shared: &'a Shared,
    /// A layer could not be read: then the piece goes on without images.
    failed: bool,
}

impl<'a> Images<'a> {
    pub(super) fn new(shared: &'a Shared) -> Images<'a> {
        Images {
            shared,
            failed: false,
        }
    }

    /// The value of `key` as of its version at `lsn`, with its LSN, when the
    /// chain that ends there is long and an image can be made.
    pub(super) fn of(&mut self, key: &[u8], lsn: Lsn, chain: Summary) -> Option<(Lsn, Vec<u8>)> {
        if self.failed || !is_long(self.shared, chain) {
            return None;
        }
        match self.make(key, lsn) {
            Ok(image) => image,
            Err(error) => {
                let branch = self.shared.id;
                // Damage keeps one key from its image only.
                self.failed = matches!(error, ReadError::Io { .. });
                tracing::error!(%branch, %error, "a merge could not make an image");
                None
            }
        }
    }

    fn make(&self, key: &[u8], at: Lsn) -> Result<Option<(Lsn, Vec<u8>)>, ReadError> {
        // Taken anew each time: holding it would hold layers in memory that
        // were flushed meanwhile.
        let layers = self.shared.snapshot();
        let view = layers.view(self.shared.source());
        let Some(page) = page_of(key) else {
            return view.chunk(&Key::Other(key.to_vec()), at);
        };
        let info = view.space(page.space, at)?.map(|(_, info)| info);
        let there = |i: &SpaceInfo| i.exists && page.page.0 < i.pages;
        let Some(info) = info.filter(|i| there(i) && at >= i.floor) else {
            return Ok(None);
        };
        let engine = &*self.shared.resources.engine;
        let wanted = Wanted {
            page,
            info: &info,
            at,
            base: None,
            reach: Reach::Files,
        };
        match view.page(engine, &wanted)? {
            Built::Page(bytes, applied, _) => {
                self.shared.stats.records_applied.add(applied as u64);
                self.shared.stats.images_written.add(1);
                Ok(Some((at, bytes)))
            }
            _ => Ok(None),
        }
    }
}
