//! Branches in a running server: creating, opening, attaching, reading at moments,
//! renaming, restoring and removing them.

pub mod attach;
pub mod binlog;
pub mod framing;
pub mod leases;
pub mod lifecycle;
pub mod live;
pub mod moment;
pub mod open;
pub mod pace;
pub mod registry;
