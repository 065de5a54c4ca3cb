//! The oracle: InnoDB's own recovery, against which `xylem-redo` is judged.
//!
//! A stock server runs a workload and is killed. From the same data files and
//! log, `mariadb-backup --prepare` (InnoDB's recovery without rollback) makes
//! one set of pages, and `xylem-redo` another. Every allocated page must be
//! the same, byte for byte. Two of our own are compared: one that starts, as
//! InnoDB does, from the data files and the last checkpoint, and one made from
//! nothing but redo since the database was created.
//!
//! The way through: [`workload`] says what SQL to run, [`server`] runs it,
//! [`log`] reads the log file, [`replay`] applies it, [`compare`] judges,
//! [`run`] puts it together.
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
