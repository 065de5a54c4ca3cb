//! `libxylem_client.so`: a MariaDB server's connection to a Xylem page server.
//!
//! The library has two entry points. The InnoDB plugin calls the C interface of
//! `include/xylem_client.h` ([`capi`]) for page reads, redo and waits for
//! durability. When the library is preloaded, it also interposes the file
//! functions of libc ([`sidefiles`]) and captures the files that the server
//! itself writes beside InnoDB.
//!
//! Each connection has its own thread with a single-threaded runtime. The
//! library's threads share no locks, so a slow page callback cannot delay the
//! acknowledgement that a commit waits for.
//!
//! Architecture invariant: nothing here may depend on a crate that is licensed
//! under Apache-2.0 alone. For this reason gRPC is implemented directly on `h2`
//! ([`grpc`]), with a small protobuf codec ([`wire`]).

pub mod backoff;
pub mod capi;
pub mod client;
pub mod config;
pub mod grpc;
pub mod log;
pub mod pages;
pub mod redo;
pub mod shared;
pub mod sidefiles;
pub mod stats;
pub mod status;
pub mod tablespace;
pub mod threads;
pub mod wire;
