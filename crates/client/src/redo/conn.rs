//! The thread of the redo stream. It connects, learns how much the server has,
//! sends the frames after that, and passes on acknowledgements.

use super::Queue;
use crate::backoff::Jitter;
use crate::config::Limits;
use crate::grpc::{Closed, Code, Link, connect};
use crate::log::{self, Level};
use crate::shared::{Shared, remember};
use crate::status::{Error, Status};
use crate::threads::lock;
use crate::wire::messages::WalAck;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};
use tokio::time::{Sleep, sleep};

const PATH: &str = "/pageserver.PageServer/StreamWAL";
const ACK_MAX: usize = 64 << 10;
/// Bytes of frames taken from the queue at once.
const TAKE_BYTES: usize = 4 << 20;

/// The start of the stream, which `xylem_init` waits for: a queue, made from the
/// first acknowledgement, or an error.
#[derive(Debug, Default)]
pub struct Begin {
    state: Mutex<BeginState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct BeginState {
    result: Option<Result<Arc<Queue>, Error>>,
    trouble: Option<String>,
    cancelled: bool,
    waker: Option<Waker>,
}

impl Begin {
    /// Waits for the stream to begin.
    ///
    /// # Errors
    /// When the server refuses the stream, or at `until`.
    pub fn wait(&self, until: Instant, limits: &Limits) -> Result<Arc<Queue>, Error> {
        let mut state = lock(&self.state);
        loop {
            if let Some(result) = &state.result {
                return result.clone();
            }
            let now = limits.now();
            if now >= until {
                let why = state.trouble.clone();
                let why = why.unwrap_or_else(|| "no first acknowledgement in time".to_owned());
                return Err(Error::new(Status::Timeout, format!("redo stream: {why}")));
            }
            state = self
                .changed
                .wait_timeout(state, until - now)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// Ends the thread, even if the stream has not begun.
    pub fn cancel(&self) {
        let mut state = lock(&self.state);
        state.cancelled = true;
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
    }

    fn cancelled(&self, waker: &Waker) -> bool {
        let mut state = lock(&self.state);
        state.waker = Some(waker.clone());
        state.cancelled
    }

    fn trouble(&self, why: String) {
        lock(&self.state).trouble = Some(why);
    }

    fn finish(&self, result: Result<Arc<Queue>, Error>) {
        lock(&self.state).result.get_or_insert(result);
        self.changed.notify_all();
    }
}

/// Streams redo until stopped. The first acknowledgement creates the queue, which
/// `begin` passes on.
pub async fn run(shared: Arc<Shared>, begin: Arc<Begin>) {
    let _end = Closing {
        shared: &shared,
        begin: &begin,
    };
    let mut queue: Option<Arc<Queue>> = None;
    let mut jitter = Jitter::from(&shared.config.entropy);
    let mut failures = 0;
    loop {
        let mut session = Session {
            shared: &shared,
            begin: &begin,
            queue: &mut queue,
            link: None,
            resumed: false,
            sleep: Box::pin(sleep(Duration::ZERO)),
            opened: shared.limits.now(),
        };
        let end = session.run().await;
        let resumed = session.resumed;
        shared.stats.connected.set(0);
        let now = shared.limits.now();
        match end {
            End::Stopped => break,
            End::Failed(error) => {
                failed(&shared, &begin, queue.as_deref(), error);
                break;
            }
            End::Closed(Closed::Status(status))
                if status.code == Code::DataLoss
                    && queue.as_ref().is_some_and(|queue| queue.refused()) =>
            {
                let server = shared.config.server();
                log::write(
                    Level::Warning,
                    &format!("page server {server} refused redo; sending it once more: {status}"),
                );
            }
            End::Closed(Closed::Status(status)) if !status.code.retry_stream() => {
                let mut error = shared.refused(&status, "redo stream");
                if status.code == Code::DataLoss && queue.is_some() {
                    error.message.push_str(" (the redo was sent twice)");
                }
                if error.status == Status::NotFound {
                    // The branch is missing, not a page.
                    error.status = Status::Error;
                }
                failed(&shared, &begin, queue.as_deref(), error);
                break;
            }
            End::Closed(closed) => {
                begin.trouble(closed.to_string());
                shared
                    .reach
                    .lost(&closed.to_string(), shared.limits.retry_limit(), now);
            }
        }
        failures = if resumed { 1 } else { failures + 1 };
        if queue.is_some() {
            shared.stats.reconnects.add(1);
        }
        let mut nap = pin!(sleep(jitter.wait(failures)));
        let stopped = poll_fn(|cx| {
            if stop_wanted(queue.as_deref(), &begin, cx.waker()) {
                return Poll::Ready(true);
            }
            nap.as_mut().poll(cx).map(|()| false)
        });
        if stopped.await {
            break;
        }
    }
}

/// Fails the queue when the thread ends for any reason, so that no caller waits
/// for it. An earlier error is kept.
struct Closing<'a> {
    shared: &'a Shared,
    begin: &'a Begin,
}

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        let error = Error::new(Status::Cancelled, "the redo stream has ended");
        if let Some(queue) = self.shared.redo.get() {
            queue.fail(error.clone());
        }
        self.begin.finish(Err(error));
    }
}

fn stop_wanted(queue: Option<&Queue>, begin: &Begin, waker: &Waker) -> bool {
    begin.cancelled(waker)
        || queue.is_some_and(|queue| queue.stopped(waker) || queue.failure().is_some())
}

/// Fails the queue and the start of the stream. Logs the error if the stream had
/// begun.
fn failed(shared: &Shared, begin: &Begin, queue: Option<&Queue>, error: Error) {
    remember(&error);
    if let Some(queue) = queue {
        if error.status != Status::Fenced {
            log::write(
                Level::Error,
                &format!("redo stream to {} ended: {error}", shared.config.server()),
            );
        }
        queue.fail(error.clone());
    }
    begin.finish(Err(error));
}

enum End {
    Stopped,
    Closed(Closed),
    Failed(Error),
}

impl From<Closed> for End {
    fn from(closed: Closed) -> End {
        End::Closed(closed)
    }
}

/// One connection, from the attempt to its end.
struct Session<'a> {
    shared: &'a Shared,
    begin: &'a Begin,
    queue: &'a mut Option<Arc<Queue>>,
    link: Option<Link>,
    /// Whether the first acknowledgement was received, so that frames may be sent.
    resumed: bool,
    sleep: Pin<Box<Sleep>>,
    opened: Instant,
}

impl Session<'_> {
    async fn run(&mut self) -> End {
        let config = &self.shared.config;
        let mut attempt = pin!(connect(&config.host, config.port, config.connect_timeout));
        let connected = poll_fn(|cx| {
            if stop_wanted(self.queue.as_deref(), self.begin, cx.waker()) {
                return Poll::Ready(None);
            }
            attempt.as_mut().poll(cx).map(Some)
        });
        let (requests, connection) = match connected.await {
            None => return End::Stopped,
            Some(Ok(pair)) => pair,
            Some(Err(closed)) => return closed.into(),
        };
        let now = self.shared.limits.now();
        match Link::open(
            requests,
            connection,
            &self.shared.metadata,
            PATH,
            ACK_MAX,
            now,
        )
        .await
        {
            Ok(link) => self.link = Some(link),
            Err(closed) => return closed.into(),
        }
        self.opened = now;
        poll_fn(|cx| match self.step(cx) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(())) => Poll::Ready(End::Stopped),
            Err(end) => Poll::Ready(end),
        })
        .await
    }

    fn step(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, End> {
        let mut now = self.shared.limits.now();
        loop {
            if stop_wanted(self.queue.as_deref(), self.begin, cx.waker()) {
                if let Some(link) = &mut self.link {
                    link.finish();
                    let _ = link.poll(cx, now);
                }
                return Ok(Poll::Ready(()));
            }
            let Some(link) = &mut self.link else {
                return Ok(Poll::Ready(()));
            };
            if self.resumed
                && let Some(queue) = self.queue.as_ref()
            {
                loop {
                    let frames = queue.take(cx.waker(), TAKE_BYTES, &self.shared.stats);
                    if frames.is_empty() {
                        break;
                    }
                    for frame in frames {
                        link.send(cx, frame, now)?;
                    }
                }
            }
            match link.poll(cx, now) {
                Poll::Ready(Ok(())) => {
                    now = self.shared.limits.now();
                    self.acknowledged(now)?;
                    continue;
                }
                Poll::Ready(Err(closed)) => return Err(closed.into()),
                Poll::Pending => {}
            }
            if self.sleep.as_mut().poll(cx).is_pending() {
                return Ok(Poll::Pending);
            }
            now = self.shared.limits.now();
            let timeout = self.shared.limits.request_timeout();
            link.check_pulse(cx, now, timeout)?;
            if !self.resumed && now.duration_since(self.opened) >= timeout {
                let why = format!("no first acknowledgement within {} ms", timeout.as_millis());
                return Err(Closed::Transport(why).into());
            }
            self.sleep
                .as_mut()
                .reset((now + self.shared.limits.tick()).into());
        }
    }

    /// Reads all received acknowledgements. The first one of a stream says where
    /// the stream resumes.
    fn acknowledged(&mut self, now: Instant) -> Result<(), End> {
        let Some(link) = &mut self.link else {
            return Ok(());
        };
        loop {
            let ack = link
                .received
                .next(WalAck::decode)
                .map_err(|e| Closed::Transport(format!("an acknowledgement is invalid: {e}")))?;
            let Some(ack) = ack else { return Ok(()) };
            self.shared.limits.heard(now);
            match self.queue.as_ref() {
                Some(queue) => queue
                    .acknowledge(&ack, !self.resumed, now, &self.shared.stats)
                    .map_err(End::Failed)?,
                None => *self.queue = Some(begin(self.shared, self.begin, &ack, now)?),
            }
            if !self.resumed {
                self.resumed = true;
                self.shared.stats.connected.set(1);
                self.shared.reach.back(now);
            }
        }
    }
}

/// Creates the queue from the first acknowledgement of this initialisation. The
/// numbering of frames continues after it, and its LSN must be the one at which
/// this compute's redo begins.
fn begin(shared: &Shared, begin: &Begin, ack: &WalAck, now: Instant) -> Result<Arc<Queue>, End> {
    let start_lsn = shared.config.start_lsn;
    if ack.durable_lsn != start_lsn {
        return Err(End::Failed(Error::new(
            Status::Invalid,
            format!(
                "the redo of branch {} ends at LSN {} on page server {}, but this compute begins at LSN \
                 {start_lsn}; hint: attach again",
                shared.config.branch,
                ack.durable_lsn,
                shared.config.server()
            ),
        )));
    }
    let limit = usize::try_from(shared.config.queue_bytes).unwrap_or(usize::MAX);
    let queue = Arc::new(Queue::new(ack, limit, now));
    let stats = &shared.stats;
    stats.lsn_queued.set(ack.durable_lsn);
    stats.lsn_sent.raise(ack.durable_lsn);
    stats.lsn_durable.set(ack.durable_lsn);
    stats.lsn_applied.raise(ack.applied_lsn);
    // Fencing finds the queue here.
    let _ = shared.redo.set(queue.clone());
    begin.finish(Ok(queue.clone()));
    Ok(queue)
}
