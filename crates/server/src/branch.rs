//! The life of a branch in a running server: opened, attached to, read at
//! moments, made, renamed, restored and removed.

pub mod attach;
pub mod framing;
pub mod leases;
pub mod lifecycle;
pub mod live;
pub mod moment;
pub mod open;
pub mod pace;
pub mod registry;
