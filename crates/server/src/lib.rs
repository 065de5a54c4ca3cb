//! The storage roles as a service: WALs and page stores of a project's
//! branches behind gRPC, with health, reflection and metrics.
//!
//! [`config::load`] makes a [`config::ServerConfig`] from flags, environment
//! and file; [`run`] serves until told to stop; [`project`] knows what a
//! project is, [`place`] where it lives.

mod branch;
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

/// This build's version, as `Ping` and `Status` tell it.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
