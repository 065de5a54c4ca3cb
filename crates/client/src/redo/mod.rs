//! The redo stream: a queue of numbered frames that callers fill and wait on,
//! and the thread that keeps the server's `StreamWAL` fed from it.

mod conn;
mod queue;
mod state;

pub use conn::{Begin, run};
pub use queue::Queue;
pub use state::{COALESCE_MAX, State};
