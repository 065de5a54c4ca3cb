//! The protocol buffers that the client needs: the messages of
//! `pageserver.proto` and one of `control.proto`.
//!
//! Encoders write the same bytes as prost: fields in order, defaults left out.
//!
//! The codec is our own because prost, which is Apache-2.0 alone, must not be
//! linked into a GPL-2.0-only server.
//!
//! Decoders accept fields in any order, skip unknown ones, and never panic.

pub mod messages;
pub mod pages;
mod reader;
pub mod walframe;
mod writer;

pub use reader::{Reader, WireError, WireType};
pub use writer::Writer;
