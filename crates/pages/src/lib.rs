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
pub mod files;
mod filter;
mod flush;
mod ingest;
mod key;
mod layer;
mod layer_read;
mod layer_write;
mod load;
mod manifest;
mod map;
mod materialise;
mod mem;
mod read;
mod side;
mod stats;
mod store;

pub use api::{Page, ReadAt, ReadError, SideFile, StoreConfig, StoreError, Tablespace};
pub use branch::Branch;
pub use load::{LoadError, Loaded, Loader, discard};
pub use stats::BranchStats;
pub use store::Store;
