//! The manifest: the list of a branch's layers, and where its ingest goes on.
//!
//! [`record`] has the parts that it is made of, [`version`] the newest one in
//! memory, [`mod@format`] its bytes; [`publish`] writes the next one, and [`stored`]
//! checks those in the store.

pub(crate) mod format;
pub(crate) mod publish;
pub(crate) mod record;
pub(crate) mod stored;
pub(crate) mod version;
