//! Shows people the content of manifests, layers and memory: of a branch that is
//! open, and of files by themselves.

mod history;
mod kinds;
mod layer_file;
mod layers;
mod manifest;

pub use crate::layer::key::key_text;
pub use history::{BuiltPage, HistoryOptions, PageHistory, PageVersion, Whence};
pub use kinds::{LayerKind, VersionKind};
pub use layer_file::{Blocks, LayerFileInfo, Tally, VersionRef, layer_file};
pub use layers::{LayerInfo, LayersInfo, MemoryLayerInfo};
pub use manifest::{BranchPointInfo, ManifestInfo, ResumeInfo, manifest, replay};
