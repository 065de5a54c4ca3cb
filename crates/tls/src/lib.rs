//! A project's certificates, and the server's side of TLS.
//!
//! [`authority`] makes the certificates of a project in a directory of their own;
//! [`ServerTls`] serves with these or with others, and takes new ones without a restart.

pub mod authority;
pub mod names;
mod server;

pub use server::{ServerFiles, ServerTls, Versions};

use rustls::crypto::CryptoProvider;
use std::sync::Arc;

/// The cryptography of the server and of the command line.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests;
