//! The page store: turns a branch's log into page versions and serves them.
//!
//! A [`Store`] is what all branches of a project share: one memory budget, the
//! caches, the directory. A [`Branch`] ingests one branch's log and answers
//! reads at any LSN since the branch began.

mod api;
mod block;
mod branch;
mod cache;
mod catalog;
mod chain;
mod codec;
mod collapse;
mod compact;
pub mod files;
mod filter;
mod flush;
mod fold;
mod fork;
mod generations;
mod health;
mod ingest;
pub mod inspect;
mod key;
mod layer;
mod layer_list;
mod layer_read;
mod layer_scan;
mod layer_write;
mod load;
mod manifest;
mod map;
mod materialise;
mod mem;
mod merge;
mod read;
mod read_only;
pub mod scrub;
mod share;
mod side;
mod side_read;
mod stats;
mod store;
mod time;
mod upkeep;

pub use api::{Page, ReadAt, ReadError, SideFile, StoreConfig, StoreError, Tablespace};
pub use branch::Branch;
pub use fork::ForkError;
pub use health::{BranchHealth, Fork, Trouble};
pub use load::{LoadError, Loaded, Loader};
pub use read_only::ReadOnlyPlace;
pub use side_read::{FileBytes, SideCursor, SidePart, SidePiece};
pub use stats::BranchStats;
pub use store::Store;
