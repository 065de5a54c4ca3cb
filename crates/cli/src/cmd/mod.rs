//! The commands, one file each.

pub mod api;
pub mod branch;
pub mod compute;
pub mod doctor;
pub mod down;
pub mod export;
pub mod gateway;
pub mod import;
pub mod inspect;
pub mod scrub;
pub mod serve;
pub mod sql;
pub mod status;
pub mod template;
pub mod token;
pub mod up;
