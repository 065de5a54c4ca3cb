//! The thread of a page connection. It connects, reads pages until the connection
//! breaks, and connects again.

use super::Conn;
use super::driver::Calls;
use super::queue::Up;
use crate::backoff::Jitter;
use crate::grpc::{Closed, Code, Link, connect, unary};
use crate::log::LONG;
use crate::shared::Shared;
use crate::status::{Error, Status};
use crate::wire::messages::{PING, PingResponse, ping_request};
use bytes::Bytes;
use h2::client::SendRequest;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::time::{Sleep, sleep};

const PATH: &str = "/pageserver.PageServer/PageStream";
/// No page is larger than 64 KiB; the rest is for a long error message.
const ANSWER_MAX: usize = 1 << 20;

const PING_MAX: usize = 64 << 10;

/// Serves `conn` until it is stopped. The `first` connection also watches the
/// waits for redo.
pub async fn run(shared: Arc<Shared>, conn: Arc<Conn>, runtime: Handle, first: bool) {
    let _end = Closing(&conn);
    let mut calls = Calls::new(shared.clone(), conn.clone());
    let mut jitter = Jitter::from(&shared.config.entropy);
    let mut failures = 0;
    let mut was_up = false;
    loop {
        let attempt = connect(
            &shared.config.host,
            shared.config.port,
            shared.config.connect_timeout,
        );
        let Some(connected) = until_stopped(&conn, attempt).await else {
            break;
        };
        let closed = match connected {
            Ok((requests, connection)) => {
                if was_up {
                    shared.stats.reconnects.add(1);
                }
                was_up = true;
                let now = shared.limits.now();
                let opened = Link::open(
                    requests.clone(),
                    connection,
                    &shared.metadata,
                    PATH,
                    ANSWER_MAX,
                    now,
                );
                match opened.await {
                    Ok(link) => {
                        conn.set_up(Up {
                            requests: requests.clone(),
                            runtime: runtime.clone(),
                        });
                        let mut session = Session {
                            shared: &shared,
                            conn: &conn,
                            calls: &mut calls,
                            link,
                            requests,
                            probe: None,
                            probed: now,
                            first,
                            answered: false,
                            reachable: false,
                            sleep: Box::pin(sleep(Duration::ZERO)),
                        };
                        let end = poll_fn(|cx| session.poll(cx)).await;
                        if session.answered {
                            failures = 0;
                        }
                        match end {
                            End::Stopped => break,
                            End::Closed(closed) => closed,
                        }
                    }
                    Err(closed) => closed,
                }
            }
            Err(closed) => closed,
        };
        let now = shared.limits.now();
        match &closed {
            Closed::Status(status) if !status.code.retry_stream() => {
                let mut error = shared.refused(status, "page stream");
                if error.status == Status::NotFound {
                    // The branch is missing, not a page.
                    error.status = Status::Error;
                }
                conn.set_down(error.clone());
                calls.refuse_all(&error, now);
            }
            _ => {
                conn.set_down(Error::new(Status::Timeout, closed.to_string()));
                calls.disconnected(&closed.to_string(), now);
                shared
                    .reach
                    .lost(&closed.to_string(), shared.limits.retry_limit(), now);
            }
        }
        failures += 1;
        if !rest(
            &shared,
            &conn,
            &mut calls,
            jitter.wait(failures),
            &closed.to_string(),
        )
        .await
        {
            break;
        }
    }
    calls.cancel_all(shared.limits.now());
}

/// Closes the queue when the thread ends for any reason.
struct Closing<'a>(&'a Conn);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Waits before the next attempt to connect, and fails calls that time out
/// meanwhile. Returns false if the connection was stopped.
async fn rest(shared: &Shared, conn: &Conn, calls: &mut Calls, wait: Duration, why: &str) -> bool {
    let until = shared.limits.now() + wait;
    let why = format!(
        "page server {} is unreachable: {why}",
        shared.config.server()
    );
    loop {
        let now = shared.limits.now();
        calls.expire(&why, now);
        if shared.is_fenced() {
            calls.refuse_all(&shared.fenced_error(), now);
        }
        if now >= until {
            return true;
        }
        let wake = calls
            .next_deadline()
            .map_or(until, |at| at.min(until))
            .max(now);
        // At least a millisecond, so that a deadline close to now does not cause a
        // busy loop.
        let nap = (wake - now).max(Duration::from_millis(1));
        let mut sleep = pin!(sleep(nap));
        let stopped = poll_fn(|cx| {
            conn.take(cx.waker(), &mut calls.fresh);
            if conn.stopped(cx.waker()) {
                return Poll::Ready(true);
            }
            sleep.as_mut().poll(cx).map(|()| false)
        });
        if stopped.await {
            return false;
        }
    }
}

/// Runs `future` unless `conn` is stopped first.
async fn until_stopped<F: Future>(conn: &Conn, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    poll_fn(|cx| {
        if conn.stopped(cx.waker()) {
            return Poll::Ready(None);
        }
        future.as_mut().poll(cx).map(Some)
    })
    .await
}

enum End {
    Stopped,
    Closed(Closed),
}

type Probe<'a> = Pin<Box<dyn Future<Output = Result<PingResponse, Closed>> + 'a>>;

/// An established connection.
struct Session<'a> {
    shared: &'a Shared,
    conn: &'a Conn,
    calls: &'a mut Calls,
    link: Link,
    requests: SendRequest<Bytes>,
    /// A ping in flight. It checks a silent server while a call waits.
    probe: Option<Probe<'a>>,
    /// When the last probe began.
    probed: Instant,
    first: bool,
    /// Whether an answer was received. The server then works, so the next backoff
    /// starts small.
    answered: bool,
    reachable: bool,
    sleep: Pin<Box<Sleep>>,
}

impl Session<'_> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        match self.step(cx) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(())) => Poll::Ready(End::Stopped),
            Err(closed) => Poll::Ready(End::Closed(closed)),
        }
    }

    fn step(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, Closed> {
        let mut now = self.shared.limits.now();
        loop {
            if self.conn.stopped(cx.waker()) {
                return Ok(Poll::Ready(()));
            }
            self.conn.take(cx.waker(), &mut self.calls.fresh);
            if !self.calls.fresh.is_empty() {
                if self.shared.is_fenced() {
                    self.calls.refuse_all(&self.shared.fenced_error(), now);
                } else {
                    let requests = Bytes::from(self.calls.requests(now));
                    self.link.send(cx, requests, now)?;
                }
            }
            self.poll_probe(cx, now);
            match self.link.poll(cx, now) {
                Poll::Ready(Ok(())) => {
                    now = self.shared.limits.now();
                    let count = self
                        .calls
                        .answers(&mut self.link.received, now)
                        .map_err(|e| Closed::Transport(format!("an answer is invalid: {e}")))?;
                    self.answered |= count > 0;
                    self.reached(now);
                    continue;
                }
                Poll::Ready(Err(closed)) => return Err(closed),
                Poll::Pending => {}
            }
            if self.sleep.as_mut().poll(cx).is_pending() {
                return Ok(Poll::Pending);
            }
            now = self.shared.limits.now();
            self.look_at_clock(cx, now)?;
        }
    }

    fn reached(&mut self, now: Instant) {
        if !self.reachable {
            self.reachable = true;
            self.shared.reach.back(now);
        }
    }

    fn look_at_clock(&mut self, cx: &mut Context<'_>, now: Instant) -> Result<(), Closed> {
        if self.shared.is_fenced() {
            self.calls.refuse_all(&self.shared.fenced_error(), now);
        }
        self.calls.look_at_clock(now);
        self.look_at_waits(now);
        self.link
            .check_pulse(cx, now, self.shared.limits.request_timeout())?;
        if self.link.has_pulse() {
            self.reached(now);
        }
        let tick = now + self.shared.limits.tick();
        let next = self.calls.next_deadline().map_or(tick, |at| at.min(tick));
        let next = next.max(now + Duration::from_millis(1));
        self.sleep.as_mut().reset(next.into());
        Ok(())
    }

    /// Pings a server that has been silent for [`crate::config::Limits::silence`]
    /// while a call waits. Its answer lets the call wait longer: see
    /// [`crate::config::Limits::gives_up`].
    fn look_at_waits(&mut self, now: Instant) {
        let redo = self
            .shared
            .redo
            .get()
            .filter(|_| self.first)
            .and_then(|queue| queue.waits());
        let page = self.calls.oldest();
        let since = [redo.map(|(since, _)| since), page]
            .into_iter()
            .flatten()
            .min();
        let Some(since) = since else {
            self.probe = None;
            self.shared.stalls.over(now);
            return;
        };
        if now.saturating_duration_since(since) < LONG {
            self.shared.stalls.over(now);
        }
        let limits = &self.shared.limits;
        let heard = limits.last_heard();
        if let (Some((since, lsn)), Some(heard)) = (redo, heard)
            && heard > since
        {
            let why = format!("redo after LSN {lsn} is not durable yet");
            self.shared.stalls.waits(since, &why, now);
        }
        let rest = limits.silence();
        let silent = |at: Instant| now.saturating_duration_since(at) >= rest;
        if self.probe.is_some() {
            if now.saturating_duration_since(self.probed) >= limits.request_timeout() {
                self.probe = None;
            }
        } else if silent(self.probed) && heard.is_none_or(silent) {
            self.probed = now;
            self.probe = Some(Box::pin(unary(
                self.requests.clone(),
                &self.shared.metadata,
                PING,
                ping_request(),
                PING_MAX,
                PingResponse::decode,
            )));
        }
    }

    fn poll_probe(&mut self, cx: &mut Context<'_>, now: Instant) {
        let Some(probe) = &mut self.probe else {
            return;
        };
        if let Poll::Ready(answer) = probe.as_mut().poll(cx) {
            self.probe = None;
            match answer {
                Ok(ping) => {
                    self.shared.limits.heard(now);
                    self.shared.stats.lsn_applied.raise(ping.applied_lsn);
                }
                Err(Closed::Status(status)) if status.code == Code::FailedPrecondition => {
                    self.shared.fence(&status.message);
                }
                // The pulse, or the calls themselves, report other errors.
                Err(_) => {}
            }
        }
    }
}
