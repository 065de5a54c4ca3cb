//! Tests of what needs no server and no database.

mod args;
mod care;
mod files;
mod moment;
mod output;
mod ports;
mod proc;
mod report;
mod state;
mod user;
