//! One branch: its state ([`shared`]), reads of it, and waiting for it. Workers, which change that state, stand above: `ingest`, `upkeep`.

pub(crate) mod ancestors;
pub(crate) mod backoff;
pub(crate) mod build;
pub(crate) mod cached;
pub(crate) mod fork;
pub(crate) mod forks;
pub(crate) mod frozen;
pub(crate) mod generations;
pub(crate) mod health;
pub(crate) mod jobs;
pub(crate) mod layers;
pub(crate) mod read;
pub(crate) mod samples;
pub(crate) mod shared;
pub(crate) mod side_files;
pub(crate) mod stats;
pub(crate) mod tablespaces;
pub(crate) mod time;
pub(crate) mod view;
pub(crate) mod visible;
pub(crate) mod wait;
