//! Page reads: a pool of connections, each with a queue that callers fill and a
//! thread that empties it.

mod call;
mod conn;
mod driver;
mod queue;

pub use call::{Batch, Callback, Done, DoneFn, PageCall, Target, Waiter};
pub use conn::run;
pub use queue::{Conn, UNDER_WAY_MAX};
