//! Why a piece of upkeep ends early, and what makes sense then.

use crate::layer::read::LayerError;

pub(crate) enum Fault {
    /// The branch stops.
    Stopped,
    /// Nothing is lost, and trying again makes no sense now.
    Stuck(String),
    /// Worth trying again: the disk may be full.
    Again(String),
    /// Not worth it.
    Dead(String),
}

impl From<std::io::Error> for Fault {
    fn from(e: std::io::Error) -> Fault {
        match e.kind() {
            // A layer writer refuses it each time.
            std::io::ErrorKind::InvalidInput => Fault::Dead(e.to_string()),
            _ => Fault::Again(e.to_string()),
        }
    }
}

/// A merge cannot read a layer. A flush goes on without images then.
impl From<LayerError> for Fault {
    fn from(e: LayerError) -> Fault {
        match e {
            LayerError::Io(..) => Fault::Again(format!("merge: {e}")),
            LayerError::Corrupt(..) => Fault::Stuck(format!("merge: {e}")),
        }
    }
}
