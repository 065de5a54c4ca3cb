//! All tests of the crate in one program, since each program costs seconds to link.
#![allow(clippy::disallowed_methods, reason = "whole systems run in real time")]

mod api;
mod api_events;
mod api_remote;
mod branches;
mod care;
mod clean_lsns;
mod command_line;
mod compute_death;
mod creations;
mod dictionary;
mod disk_errors;
mod documents;
mod engines;
mod export;
mod faults;
mod gateway;
mod hot_pages;
mod import;
mod kills;
mod latency;
mod moments;
mod object_store;
mod package;
mod page_cache;
mod prepared;
mod read_ahead;
mod readers;
mod replica;
mod sleep;
mod stock;
mod survive;
mod tls;
mod tokens;
mod transport;
mod up_gateway;
