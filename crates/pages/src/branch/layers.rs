//! A branch's layers at one moment: the open one, those that wait to be
//! flushed, the files.

use crate::layer::list::LayerList;
use crate::layer::memory::MemLayer;
use crate::manifest::record::Resume;
use std::sync::Arc;
use xylem_types::Lsn;

/// A layer that waits to be flushed.
#[derive(Clone)]
pub(crate) struct Frozen {
    pub(crate) layer: Arc<MemLayer>,
    /// The branch's applied LSN when it was frozen.
    pub(crate) end: Lsn,
    /// Where ingest goes on behind it.
    pub(crate) resume: Resume,
    pub(crate) oldest: Option<Lsn>,
}

/// All layers at one moment.
#[derive(Clone)]
pub(crate) struct Layers {
    pub(crate) open: Arc<MemLayer>,
    /// Oldest first.
    pub(crate) frozen: Vec<Frozen>,
    pub(crate) files: Arc<LayerList>,
}
