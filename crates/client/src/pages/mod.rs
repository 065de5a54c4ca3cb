//! Page reads. A thread that wants a page sends the request and receives the answer
//! itself: [`Link`]. The [`Pool`] opens as many links as threads read at a time. Reads
//! that nobody waits for have a link and a thread of their own: [`run`].

mod background;
mod call;
mod link;
mod pool;

pub use background::run;
pub use call::{Callback, DoneFn, Outcome, PageCall, Request, Target, Waiter};
pub use link::Link;
pub use pool::{Patience, Pool, may_wait};
