//! Why a store does not answer, while requests to it are tried again.

use crate::error::ObjectError;
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// A store that fails requests at this moment.
#[derive(Clone, Debug)]
pub struct Trouble {
    /// The failure of the newest attempt.
    pub error: Arc<ObjectError>,
    /// When the first attempt failed. No request was answered since.
    pub since: Instant,
    /// A warning about it was logged.
    told: bool,
}

/// The trouble of one place in a store.
#[derive(Default)]
pub(crate) struct Watch(Mutex<Option<Trouble>>);

impl Watch {
    pub(crate) fn now(&self) -> Option<Trouble> {
        self.0.lock().clone()
    }

    /// The store has answered a request.
    pub(crate) fn answered(&self, url: &str) {
        let ended = self.0.lock().take();
        if ended.is_some_and(|trouble| trouble.told) {
            tracing::info!(url, "the object store answers again");
        }
    }

    /// An attempt has failed, and the request is tried again after `wait`.
    pub(crate) fn failing(&self, error: ObjectError, warn: bool, wait: Duration) {
        if warn {
            tracing::warn!(
                error = %error.why(), attempts = error.attempts, again_in = ?wait,
                "{} failed and is tried again", error.context()
            );
        }
        let mut trouble = self.0.lock();
        let before = trouble.as_ref();
        *trouble = Some(Trouble {
            since: before.map_or_else(Instant::now, |t| t.since),
            told: warn || before.is_some_and(|t| t.told),
            error: Arc::new(error),
        });
    }
}
