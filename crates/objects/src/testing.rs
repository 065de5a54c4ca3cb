//! For tests and benchmarks: a store that fails on request, a real S3 server, a network
//! with a delay.
#![allow(
    clippy::disallowed_methods,
    reason = "another process is waited for in real time"
)]

mod delay;
mod faulty;
mod s3server;

pub use delay::DelayProxy;
pub use faulty::{Fault, Faulty, Op, Rates};
pub use s3server::S3Server;

use crate::{GiveUp, Retry};
use object_store::ObjectStore;
use object_store::memory::InMemory;
use std::sync::Arc;
use std::time::Duration;

/// An empty store in memory.
pub fn memory() -> Arc<dyn ObjectStore> {
    Arc::new(InMemory::new())
}

/// Retries that do not keep a test waiting.
pub fn quick() -> Retry {
    Retry {
        first_wait: Duration::from_millis(1),
        longest_wait: Duration::from_millis(20),
        give_up: GiveUp::After(Duration::from_secs(20)),
        attempt_timeout: Duration::from_millis(500),
    }
}
