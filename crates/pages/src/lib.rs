//! The page store: turns a branch's WAL into page versions and serves them.
//!
//! A [`Store`] has the branches of a project and what they share: one memory
//! budget, the caches, the place. A [`Branch`] ingests one branch's WAL and
//! answers reads at any LSN since the branch began.
//!
//! Modules import downward only: `branch` is the state of a branch and its
//! reads; `ingest`, `upkeep`, `scrub` and `load` change or check that state;
//! `handle` is the public [`Branch`], which starts the workers.

mod api;
mod branch;
mod config;
mod error;
mod finding;
mod handle;
mod ingest;
pub mod inspect;
mod layer;
mod load;
mod manifest;
mod materialise;
pub mod place;
mod resources;
pub mod scrub;
mod stats;
mod store;
mod upkeep;

pub use api::{Page, Reach, ReadAt, SideFile, Tablespace};
pub use branch::fork::ForkError;
pub use branch::forks::Fork;
pub use branch::health::Trouble;
pub use branch::side_files::{FileBytes, HEAD_BYTES, SideCursor, SidePart, SidePiece, Wanted};
pub use config::StoreConfig;
pub use error::{ReadError, StoreError};
pub use handle::Branch;
pub use load::{LoadError, Loaded, Loader};
pub use stats::BranchStats;
pub use store::Store;
pub use upkeep::look::BranchHealth;
