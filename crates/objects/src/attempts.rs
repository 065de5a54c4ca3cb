//! The attempts of one request: counted, limited in time, repeated after a
//! wait as the policy says.
//!
//! The loops around them are written by hand rather than with `backon`'s
//! `Retryable`, since they decide more than when: whether a write may have
//! happened, whether an answer came, and what callers are told meanwhile.

use crate::error::{Failure, ObjectError, Reason};
use crate::place::{Place, add};
use crate::retry::{GiveUp, Waits};
use tokio::time::Instant;

/// One request to a store, which may take several attempts.
pub(crate) struct Attempts<'a> {
    place: &'a Place,
    operation: &'static str,
    name: &'a str,
    /// Drawn when an attempt has failed.
    waits: Option<Waits>,
    began: Instant,
    count: u32,
}

impl<'a> Attempts<'a> {
    /// `operation` on the object or folder `name`, not attempted yet.
    pub(crate) fn new(place: &'a Place, operation: &'static str, name: &'a str) -> Attempts<'a> {
        Attempts {
            place,
            operation,
            name,
            waits: None,
            began: Instant::now(),
            count: 0,
        }
    }

    /// One attempt with a time limit.
    pub(crate) async fn attempt<T>(
        &mut self,
        request: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        self.count += 1;
        let counters = &self.place.store.counters;
        add(&counters.requests, 1);
        if self.count > 1 {
            add(&counters.retries, 1);
        }
        let limit = self.place.retry.attempt_timeout;
        let done = match tokio::time::timeout(limit, request).await {
            Ok(done) => done,
            Err(_) => Err(Failure::timeout(limit)),
        };
        if done.as_ref().err().is_none_or(Failure::is_answer) {
            self.place.trouble.answered(&self.place.url);
        }
        done
    }

    /// Notes one more attempt, whose requests are counted and limited
    /// elsewhere.
    pub(crate) fn note_attempt(&mut self) {
        self.count += 1;
    }

    /// Waits before the next attempt; returns the failure when there is none.
    pub(crate) async fn wait(&mut self, failure: Failure) -> Result<(), Failure> {
        let give_up = self.place.retry.give_up;
        let again = match &failure {
            Failure::Transient { .. } => true,
            Failure::Final { mendable, .. } => *mendable && give_up == GiveUp::Never,
        };
        if !again {
            return Err(failure);
        }
        let place = self.place;
        let draw = || place.retry.waits(&place.store.config.entropy);
        let wait = self.waits.get_or_insert_with(draw).next_wait();
        let late = |limit| self.began.elapsed() + wait >= limit;
        if give_up.limit().is_some_and(late) {
            return Err(failure);
        }
        // A request with a limit is worth a look before it fails. One without
        // is not reported in any other way.
        let warn = give_up == GiveUp::Never || self.count == 4;
        let error = self.describe(failure, false);
        self.place.trouble.failing(error, warn, wait);
        tokio::time::sleep(wait).await;
        Ok(())
    }

    /// The error of a request that has failed for good.
    pub(crate) fn error(&self, failure: Failure, outcome_unknown: bool) -> ObjectError {
        let error = self.describe(failure, outcome_unknown);
        if !matches!(error.reason, Reason::NotFound | Reason::Exists) {
            add(&self.place.store.counters.failures, 1);
        }
        error
    }

    fn describe(&self, failure: Failure, outcome_unknown: bool) -> ObjectError {
        let (reason, source) = match failure {
            Failure::Transient { source, .. } => (Reason::Unavailable, source),
            Failure::Final { reason, source, .. } => (reason, source),
        };
        ObjectError {
            reason,
            operation: self.operation,
            url: self.place.url.clone(),
            name: self.name.to_owned(),
            attempts: self.count,
            elapsed: self.began.elapsed(),
            outcome_unknown,
            source,
        }
    }
}
