//! The work that a store does by itself: flushes, merges, folds, and the scrub
//! in the background.

mod collapse;
pub(crate) mod compact;
pub(crate) mod debt;
pub(crate) mod fault;
pub(crate) mod flush;
mod fold;
mod image;
pub(crate) mod look;
mod merge;
mod plan;
mod publish;
mod schedule;
mod threads;
mod turn;

use crate::error::StoreError;
use crate::scrub::background;
use crate::store::Store;
use std::sync::Arc;
use threads::start;

impl Store {
    /// Starts the threads, which end with the store. Called with
    /// [`Store::start_ingest`], and for the same reason not before every branch
    /// is open: until then nobody knows what must be kept for forks.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start_upkeep(self: &Arc<Store>) -> Result<(), StoreError> {
        let long_pages = Arc::clone(&self.resources.long_pages);
        let store = Arc::downgrade(self);
        start("pages-collapse", move || {
            collapse::run(&store, &long_pages);
        })?;
        let pace = self.resources.pace.clone();
        let store = Arc::downgrade(self);
        start("pages-upkeep", move || schedule::run(&store, &pace))?;
        let store = Arc::downgrade(self);
        start("pages-scrub", move || background::run(&store))
    }
}
