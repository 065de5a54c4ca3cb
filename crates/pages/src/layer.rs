//! Layers: the format of keys, values and files, and what reads and writes
//! them. Nothing here knows of branches.

pub(crate) mod batch;
pub(crate) mod block;
pub(crate) mod cache;
pub(crate) mod catalog;
pub(crate) mod chain;
pub(crate) mod codec;
pub(crate) mod filter;
pub(crate) mod format;
pub(crate) mod key;
pub(crate) mod list;
pub(crate) mod memory;
pub(crate) mod pages;
pub(crate) mod read;
pub(crate) mod scan;
pub(crate) mod write;
