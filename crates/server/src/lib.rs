//! The server: serves the WALs and pages of a project's branches over gRPC, with
//! health, reflection and metrics.
//!
//! [`config::load`] reads a [`config::ServerConfig`] from flags, environment and file.
//! [`run()`] serves until it is told to stop. [`project`] describes projects, and
//! [`place`] opens their stores.

mod accept;
mod access;
mod allocator;
pub mod audit;
mod branch;
mod certificates;
pub mod config;
mod connections;
mod error;
mod http;
mod lock;
pub mod logging;
mod metrics;
mod node;
mod open;
mod ownership;
pub mod place;
pub mod project;
mod random;
mod rpc;
mod run;
pub mod size;
pub mod span;
mod time;
mod wals;
mod watch;

pub use error::ServerError;
pub use run::{ListenAddrs, run, run_on, runtime, shutdown_signal};

/// The version of this build, which `Ping` and `Status` return.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
