//! Tests of what needs no server and no database.

mod args;
mod files;
mod moment;
mod output;
mod ports;
mod proc;
mod report;
mod state;
