//! `libxylem_client.so`: a MariaDB server's connection to a Xylem page server.
//!
//! The library has two entry points. The InnoDB plugin calls the C interface of
//! `include/xylem_client.h` ([`capi`]) for page reads, redo and waits for
//! durability. When the library is preloaded, it also interposes the file
//! functions of libc ([`sidefiles`]) and captures the files that the server
//! itself writes beside InnoDB.
//!
//! A thread of the server that needs a page or waits for a commit talks to the page
//! server itself, in the compute protocol (`docs/compute-protocol.md`): [`pages`] and
//! [`redo`]. Two threads of the library do the rest: they connect, try again, and
//! receive what nobody waits for.
//!
//! Architecture invariant: nothing here may depend on a crate that is licensed
//! under Apache-2.0 alone.

pub mod backoff;
pub mod binlog;
pub mod cache;
pub mod capi;
pub mod client;
pub mod config;
pub mod log;
pub mod pages;
pub mod redo;
pub mod refusal;
pub mod shared;
pub mod sidefiles;
pub mod socket;
pub mod stats;
pub mod status;
pub mod tablespace;
pub mod threads;
pub mod trust;
