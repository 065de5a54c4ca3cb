//! The calls of one page connection: new ones, sent ones, those that wait for a
//! retry, and those that time out. No I/O: the caller passes in the time and the
//! received bytes, and sends the returned requests.

use super::{Conn, PageCall, Target};
use crate::backoff::Jitter;
use crate::grpc::{Code, Deframer, RpcStatus};
use crate::shared::{Shared, remember};
use crate::status::{Error, Status};
use crate::wire::WireError;
use crate::wire::pages::{PageAnswer, PageRequest, decode_page_answer, put_page_request};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

/// One attempt that waits for its answer.
struct Attempt {
    call: PageCall,
    deadline: Instant,
}

/// All calls that the connection's thread has taken.
pub struct Calls {
    shared: Arc<Shared>,
    conn: Arc<Conn>,
    jitter: Jitter,
    next_id: u64,
    sent: HashMap<u64, Attempt>,
    again: Vec<(Instant, PageCall)>,
    /// Taken from the queue, to be sent now.
    pub fresh: VecDeque<PageCall>,
}

impl Calls {
    /// No calls yet.
    pub fn new(shared: Arc<Shared>, conn: Arc<Conn>) -> Calls {
        Calls {
            jitter: Jitter::from(&shared.config.entropy),
            shared,
            conn,
            next_id: 1,
            sent: HashMap::new(),
            again: Vec::new(),
            fresh: VecDeque::new(),
        }
    }

    /// Returns the requests of all fresh calls as consecutive gRPC messages. The
    /// calls then wait for their answers.
    pub fn requests(&mut self, now: Instant) -> Vec<u8> {
        let timeout = self.shared.limits.request_timeout();
        // The server's time limit is a little shorter than the client's, so that
        // the reason in its answer arrives before the deadline.
        let server_ms = u32::try_from((timeout * 9 / 10).as_millis())
            .unwrap_or(u32::MAX)
            .max(1);
        let mut out = Vec::with_capacity(self.fresh.len() * 48);
        while let Some(call) = self.fresh.pop_front() {
            let id = self.next_id;
            self.next_id += 1;
            let request = PageRequest {
                id,
                space_id: call.space_id,
                page_no: call.page_no,
                min_lsn: call.min_lsn,
                timeout_ms: server_ms,
            };
            put_page_request(&mut out, &request);
            self.sent.insert(
                id,
                Attempt {
                    call,
                    deadline: now + timeout,
                },
            );
        }
        out
    }

    /// Completes every call whose whole answer is in `received`.
    ///
    /// # Errors
    /// When the bytes are not answers. The stream is then useless.
    pub fn answers(&mut self, received: &mut Deframer, now: Instant) -> Result<usize, WireError> {
        let mut count = 0;
        loop {
            let sent = &self.sent;
            let find = |id: u64| -> Option<Target> { sent.get(&id).map(|a| a.call.target) };
            let answer = received.next(|reader| decode_page_answer(reader, find))?;
            let Some(answer) = answer else {
                return Ok(count);
            };
            count += 1;
            // Even a late answer shows that the server responds.
            self.shared.limits.heard(now);
            // A late answer has no attempt any more, and is dropped.
            if let Some(attempt) = self.sent.remove(&answer.id) {
                self.answered(attempt.call, &answer, now);
            }
        }
    }

    fn answered(&mut self, call: PageCall, answer: &PageAnswer, now: Instant) {
        let stats = &self.shared.stats;
        if answer.status == 0 {
            match answer.page_len {
                Some(len) if len == call.target.len() => {
                    stats.page_bytes.add(len as u64);
                    self.done(call, Status::Ok, now);
                }
                len => {
                    let error = Error::new(
                        Status::Error,
                        format!(
                            "page {}:{} has {} bytes, but its buffer has {}; hint: compare \
                             innodb_page_size with the project's page size",
                            call.space_id,
                            call.page_no,
                            len.unwrap_or(0),
                            call.target.len()
                        ),
                    );
                    self.failed(call, &error, now);
                }
            }
            return;
        }
        let status = RpcStatus {
            code: Code::from_number(answer.status),
            message: answer.message.clone(),
        };
        let what = format!("page {}:{}", call.space_id, call.page_no);
        if status.code.retry_request() {
            let why = format!("{what}: {status}");
            self.shared.stalls.waits(call.started, &why, now);
            self.retry(call, &why, now);
        } else {
            let error = self.shared.refused(&status, &what);
            self.failed(call, &error, now);
        }
    }

    /// Schedules a retry of the call, or fails it if the server was silent for
    /// the retry limit.
    fn retry(&mut self, mut call: PageCall, why: &str, now: Instant) {
        call.failures = call.failures.saturating_add(1);
        let gives_up = self.shared.limits.gives_up(call.started);
        let at = (now + self.jitter.wait(call.failures)).min(gives_up);
        if now >= gives_up {
            let error = Error::new(
                Status::Timeout,
                format!("failed after {} attempts: {why}", call.failures),
            );
            self.failed(call, &error, now);
        } else {
            self.shared.stats.page_retries.add(1);
            self.again.push((at, call));
        }
    }

    /// Retries every call that waits for an answer, because the connection broke.
    pub fn disconnected(&mut self, why: &str, now: Instant) {
        let sent: Vec<Attempt> = self.sent.drain().map(|(_, attempt)| attempt).collect();
        for attempt in sent {
            self.retry(attempt.call, why, now);
        }
    }

    /// Fails all calls with `error`. The server refused the stream itself, so a
    /// retry would fail, too.
    pub fn refuse_all(&mut self, error: &Error, now: Instant) {
        for call in self.all() {
            self.failed(call, error, now);
        }
    }

    /// Cancels all calls, at shutdown.
    pub fn cancel_all(&mut self, now: Instant) {
        for call in self.all() {
            self.done(call, Status::Cancelled, now);
        }
    }

    fn all(&mut self) -> Vec<PageCall> {
        let mut all: Vec<PageCall> = self.sent.drain().map(|(_, attempt)| attempt.call).collect();
        all.extend(self.again.drain(..).map(|(_, call)| call));
        all.extend(self.fresh.drain(..));
        all
    }

    /// Ends attempts without an answer in time, which are retried or fail. Makes
    /// calls fresh whose wait for a retry is over.
    pub fn look_at_clock(&mut self, now: Instant) {
        let late: Vec<u64> = self
            .sent
            .iter()
            .filter(|(_, a)| a.deadline <= now)
            .map(|(&id, _)| id)
            .collect();
        for id in late {
            if let Some(attempt) = self.sent.remove(&id) {
                let ms = self.shared.limits.request_timeout().as_millis();
                let what = format!(
                    "page {}:{}: no answer from {} within {ms} ms",
                    attempt.call.space_id,
                    attempt.call.page_no,
                    self.shared.config.server()
                );
                self.retry(attempt.call, &what, now);
            }
        }
        for (at, call) in std::mem::take(&mut self.again) {
            if at <= now {
                self.fresh.push_back(call);
            } else {
                self.again.push((at, call));
            }
        }
    }

    /// Fails calls that had no connection until their time limit.
    pub fn expire(&mut self, why: &str, now: Instant) {
        self.look_at_clock(now);
        for _ in 0..self.fresh.len() {
            if let Some(call) = self.fresh.pop_front() {
                if self.shared.limits.gives_up(call.started) <= now {
                    let error = Error::new(Status::Timeout, why);
                    self.failed(call, &error, now);
                } else {
                    self.fresh.push_back(call);
                }
            }
        }
    }

    /// The time of the oldest call; `None` if there is none.
    pub fn oldest(&self) -> Option<Instant> {
        let sent = self.sent.values().map(|attempt| attempt.call.started);
        let again = self.again.iter().map(|(_, call)| call.started);
        let fresh = self.fresh.iter().map(|call| call.started);
        sent.chain(again).chain(fresh).min()
    }

    /// The time of the next retry or of the next failure for lack of a connection,
    /// if any.
    pub fn next_deadline(&self) -> Option<Instant> {
        let again = self.again.iter().map(|(at, _)| *at).min();
        let oldest = self.fresh.iter().map(|call| call.started).min();
        let give_up = oldest.map(|started| self.shared.limits.gives_up(started));
        [again, give_up].into_iter().flatten().min()
    }

    fn failed(&self, call: PageCall, error: &Error, now: Instant) {
        self.shared.stats.page_errors.add(1);
        remember(error);
        self.done(call, error.status, now);
    }

    fn done(&self, call: PageCall, status: Status, now: Instant) {
        let waited = now.duration_since(call.started).as_micros();
        self.shared
            .stats
            .page_wait_us
            .add(u64::try_from(waited).unwrap_or(u64::MAX));
        self.conn.completed(1);
        call.complete(status);
    }
}
