//! Reads the files of a MariaDB binary log, as far as recovery and GTIDs need it.
//!
//! A file begins with 4 bytes of magic. Events follow, each with a header of 19 bytes, all
//! numbers little-endian ([MariaDB's
//! description](https://mariadb.com/kb/en/2-binlog-event-header/)):
//!
//! | offset | size | content |
//! |---|---|---|
//! | 0 | 4 | seconds since 1970 |
//! | 4 | 1 | type |
//! | 5 | 4 | server id |
//! | 9 | 4 | length of the event with its header |
//! | 13 | 4 | where the event ends in the file |
//! | 17 | 2 | flags |
//!
//! An **event group** is a GTID event and what belongs to it: a transaction, or a statement
//! that stands alone. A group is whole if its last event is there. The rules are those of
//! MariaDB's recovery (`TC_LOG_BINLOG::recover` in `log.cc`).

mod event;
mod gtid;
mod scan;

#[cfg(test)]
mod tests;

pub use event::{begun, is_in_use};
pub use gtid::{BadGtid, Gtid, Position};
pub use scan::{Error, Group, Item, Summary, scan};
