//! The redo stream: a queue of numbered frames. A thread that queues a frame sends it; a
//! thread that waits for one receives the acknowledgements: [`Queue`]. A thread of the
//! library connects, and does what nobody waits for: [`run`].

mod frame;
mod keeper;
mod link;
mod queue;
mod state;
mod waiter;

pub use frame::{FileOp, RedoBuilder, file_frame};
pub use keeper::{begin, run};
pub use link::Link;
pub use queue::{Queue, Sending};
pub use state::{COALESCE_MAX, State};
