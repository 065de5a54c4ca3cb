//! The oracle compares `xylem-redo` with InnoDB's own recovery.
//!
//! A stock server runs a workload and is killed. From the same data files and
//! redo log, `mariadb-backup --prepare` (InnoDB's recovery without rollback) makes
//! one set of pages, and `xylem-redo` makes two: one that starts, like InnoDB, from
//! the data files and the last checkpoint, and one from only the redo since the
//! database was created. Every allocated page must be the same, byte for byte.
//!
//! [`workload`] generates the SQL, [`server`] runs it, [`log`] reads the redo log,
//! [`replay`] applies it, [`compare`] compares the pages, and [`run`] combines
//! these steps.
#![forbid(unsafe_code)]

pub mod bench;
pub mod compare;
pub mod files;
pub mod log;
pub mod rebuild;
pub mod replay;
pub mod rng;
pub mod run;
pub mod server;
pub mod workload;
