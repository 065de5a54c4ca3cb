//! Computes: a mariadbd process on a branch, and its directory.

pub mod base;
pub mod bootstrap;
pub mod decoy;
mod fill;
mod host;
pub mod mycnf;
pub mod name;
mod old;
mod options;
mod port;
pub mod reader;
pub mod ready;
pub mod record;
mod run;
mod start;
pub mod starter;
pub mod stop;

#[cfg(test)]
mod tests;
