//! A failure that every caller is told.

use crate::WalError;
use std::io;
use std::sync::Arc;

/// A failure that is kept, because every later caller is told of it.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub context: String,
    pub source: Arc<io::Error>,
}

impl Failure {
    pub fn new(context: String, source: io::Error) -> Failure {
        Failure {
            context,
            source: Arc::new(source),
        }
    }

    /// A new error that says the same, for one more caller.
    pub fn error(&self) -> WalError {
        let source = match self.source.raw_os_error() {
            Some(code) => io::Error::from_raw_os_error(code),
            None => io::Error::new(self.source.kind(), self.source.to_string()),
        };
        WalError::Io {
            context: self.context.clone(),
            source,
        }
    }
}
