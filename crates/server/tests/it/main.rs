//! All integration tests of the crate in one program, since each program costs seconds to
//! link.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "a test panics where it fails, and runs in real time"
)]

mod access;
mod branches;
mod common;
mod compute;
mod computes;
mod config;
mod import;
mod inspect;
mod leases;
mod limits;
mod process;
mod project;
mod protocol;
mod service;
mod takeover;
mod times;
mod tls;
mod wal_home;
