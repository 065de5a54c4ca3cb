//! The compute protocol (`docs/compute-protocol.md`): page reads and redo of computes,
//! without HTTP/2 and with as few switches of threads as there can be.
//!
//! Each connection has a thread of its own. It answers pages from memory where it reads
//! the request, and makes commits durable where it reads the frames. What has to wait
//! for files, for redo or for other servers runs elsewhere and writes its answer itself.

mod acks;
mod connection;
mod outbox;
mod pages;
mod redo;

pub(crate) use connection::{refusal, spawn as serve};
