//! Loading a stock data directory into a branch: pages are checked
//! ([`check`]), stock MariaDB converts its own tables on a working copy
//! ([`convert`], in a [`scratch`] directory), and everything is sent to the
//! server ([`send`]).

pub mod check;
pub mod convert;
pub mod scratch;
pub mod send;
pub mod tally;
