//! The storage roles as a service: logs and page stores of a project's
//! branches behind gRPC, with health, reflection and metrics.
//!
//! [`config::load`] makes a [`config::ServerConfig`] from flags, environment
//! and file; [`run`] serves until told to stop; [`project`] knows what stands
//! in a data directory.

mod adopt;
mod branch;
pub mod config;
mod error;
mod http;
mod lock;
pub mod logging;
mod metrics;
mod node;
mod open;
pub mod project;
mod rpc;
mod run;
pub mod size;

pub use error::ServerError;
pub use run::{ListenAddrs, run, runtime, shutdown_signal};

/// This build's version, as `Ping` and `Status` tell it.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
