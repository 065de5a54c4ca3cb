//! `libxylem_client.so`: a MariaDB server's connection to a Xylem page server.
//!
//! Two doors lead in. The C interface of `include/xylem_client.h` ([`capi`]) is
//! what the InnoDB plugin calls: page reads, redo, waits for durability. The
//! file functions of libc ([`sidefiles`]), interposed when the library is
//! preloaded, catch what the server itself writes beside InnoDB.
//!
//! Behind them each connection has one thread of its own with a single-threaded
//! runtime: no lock is taken between threads of the library, and a slow page
//! callback cannot delay the acknowledgement a commit waits for.
//!
//! Architecture invariant: nothing here may pull in a crate that is licensed
//! under Apache-2.0 alone, which is why gRPC is spoken directly over `h2`
//! ([`grpc`]) with a small protobuf codec of our own ([`wire`]).

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
