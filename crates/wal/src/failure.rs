//! A failure that is told to everyone who asks.

use crate::LogError;
use std::io;
use std::sync::Arc;

/// Something went wrong; kept, because it is told to everyone who asks.
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

    /// The error for one more caller.
    pub fn error(&self) -> LogError {
        let source = match self.source.raw_os_error() {
            Some(code) => io::Error::from_raw_os_error(code),
            None => io::Error::new(self.source.kind(), self.source.to_string()),
        };
        LogError::Io {
            context: self.context.clone(),
            source,
        }
    }
}
