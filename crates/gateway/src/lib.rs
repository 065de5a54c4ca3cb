//! One address for all branches of a project.
//!
//! A client of MariaDB names the branch that it wants (`route.rs`). The gateway wakes the
//! branch's compute, and passes on what the compute and the client say to each other
//! (`login.rs`): it knows no passwords, because the compute's own challenge reaches the
//! client (authentication switch), whatever the account's plugin is. After the login it
//! copies bytes, and looks only at the commands whose content depends on the gateway
//! (`relay.rs`). TLS and compression end here (`compressed.rs`).
//!
//! A client's connection outlives its session on a compute: a compute that nobody uses is
//! ended (`sleep.rs`), and one may die. When the client speaks again, its session is made
//! anew on the next compute (`away.rs`), from what the sleeping compute has told about it
//! (`park.rs`) or from the client's own statements (`history.rs`).
//!
//! The protocol is MariaDB's client/server protocol, version 10:
//! <https://mariadb.com/kb/en/clientserver-protocol/>. All numbers in it are
//! little-endian.

mod away;
mod branch;
mod bytes;
mod compressed;
mod computes;
mod conversation;
mod gateway;
mod history;
mod kill;
mod login;
mod metrics;
mod own;
mod packet;
mod park;
mod pool;
mod proxy;
mod refusal;
mod relay;
mod route;
mod scan;
mod secure;
mod session;
mod sessions;
mod sleep;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests;
mod variable;

pub use computes::{Computes, OwnWay, Reached, Seen, Sleep};
pub use gateway::{Gateway, Settings};
pub use refusal::Refusal;
pub use route::MOMENT;
