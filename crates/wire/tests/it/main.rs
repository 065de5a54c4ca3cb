//! Tests of the compute protocol.

mod documented;
mod messages;
