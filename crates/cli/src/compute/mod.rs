//! Computes: a mariadbd process on a branch, and its directory.

pub mod account;
pub mod base;
pub mod bootstrap;
pub mod decoy;
pub mod mycnf;
pub mod name;
pub mod reader;
pub mod ready;
pub mod record;
pub mod start;
pub mod stop;

#[cfg(test)]
mod tests;
