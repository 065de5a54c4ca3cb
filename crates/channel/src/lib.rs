//! A blocking connection between a compute and its page server: a Unix socket, TCP, or
//! TLS over TCP. One thread receives while others send.
//!
//! TLS 1.3 only. Both sides verify by certificates in PEM files ([`ClientTls`] here, the
//! server's side in `crates/tls`), and agree on [`PROTOCOL`] by ALPN.

mod channel;
mod client;
pub mod files;
mod tls;

pub use channel::{Channel, Wait};
pub use client::{ClientTls, Identity, server_name};
pub use files::TlsError;

/// The name of the compute protocol in ALPN (RFC 7301).
pub const PROTOCOL: &[u8] = b"xylem-compute/1";
