//! Tests of what needs no server and no database.

mod api;
mod args;
mod care;
mod documents;
mod files;
pub(crate) mod kit;
mod lock;
mod log_file;
mod moment;
mod moments;
mod output;
mod ports;
mod processes;
mod report;
mod run_as;
mod settings;
mod state;
