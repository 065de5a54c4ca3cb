//! Writing a branch as a stock data directory: [`target`] is the directory while
//! it is written, [`received`] writes side files and the redo log into it,
//! [`fetch`] fills its tablespaces.

pub mod fetch;
pub mod received;
pub mod target;
