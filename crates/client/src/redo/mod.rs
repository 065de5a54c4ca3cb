//! The redo stream: a queue of numbered frames that callers fill and wait for,
//! and the thread that sends them to the server's `StreamWAL`.

mod conn;
mod queue;
mod state;

pub use conn::{Begin, run};
pub use queue::Queue;
pub use state::{COALESCE_MAX, State};
