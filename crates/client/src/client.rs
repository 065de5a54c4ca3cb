//! The initialised library: its connections, and the operations that the C
//! interface performs on them.

use crate::backoff::Jitter;
use crate::config::Config;
use crate::grpc::{Closed, Code, Deframer, unary};
use crate::log::{self, Level};
use crate::pages::{self, Batch, Callback, Conn, Done, PageCall, Target, Waiter};
use crate::redo::{self, Begin, Queue};
use crate::shared::{Shared, remember};
use crate::sidefiles;
use crate::status::{Error, Status};
use crate::threads::{self, is_library_thread, lock};
use crate::wire::messages::{PING, PingResponse, ping_request};
use crate::wire::{Reader, WireError};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The time limit of initialisation. It is shorter than that of a running
/// compute, because the program that starts one has just talked to the page
/// server.
const INIT_LIMIT: Duration = Duration::from_secs(10);

/// A unary call.
pub struct Unary<'a, T> {
    /// The path of the method.
    pub path: &'a str,
    /// The request, as a gRPC message.
    pub message: Vec<u8>,
    /// The largest answer, in bytes.
    pub limit: usize,
    /// Decodes the answer.
    pub read: fn(&mut Reader<'_, Deframer>) -> Result<T, WireError>,
    /// The call's name in errors.
    pub what: &'a str,
}

/// How long a unary call is retried.
#[derive(Clone, Copy, Debug)]
pub enum Patience {
    /// Until this instant, whatever the server answers.
    Until(Instant),
    /// Without a limit while the server responds that it cannot answer yet; up
    /// to the retry limit while the server does not respond.
    WhileAlive,
}

/// A request for a page.
#[derive(Clone, Copy, Debug)]
pub struct PageWanted {
    /// The tablespace.
    pub space_id: u32,
    /// The page's number.
    pub page_no: u32,
    /// The page must show at least every change up to this LSN.
    pub min_lsn: u64,
    /// The buffer that receives the page.
    pub target: Target,
}

/// The state of the library between `xylem_init` and `xylem_shutdown`.
#[derive(Debug)]
pub struct Client {
    shared: Arc<Shared>,
    pool: Vec<Arc<Conn>>,
    turn: AtomicUsize,
    begin: Arc<Begin>,
    redo: OnceLock<Arc<Queue>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Client {
    /// Connects, checks the branch, the epoch and the token, and begins the redo
    /// stream unless `config.epoch` is 0.
    ///
    /// # Errors
    /// When the server cannot be reached, or refuses the connection.
    pub fn start(config: Config) -> Result<Client, Error> {
        let shared = Arc::new(Shared::new(config)?);
        let client = Client {
            pool: (0..shared.config.connections)
                .map(|_| Arc::default())
                .collect(),
            shared,
            turn: AtomicUsize::new(0),
            begin: Arc::default(),
            redo: OnceLock::new(),
            threads: Mutex::default(),
        };
        let until = client.shared.limits.now() + INIT_LIMIT.min(client.shared.limits.retry_limit());
        match client.connect(until) {
            Ok(()) => Ok(client),
            Err(error) => {
                client.end();
                Err(error)
            }
        }
    }

    fn connect(&self, until: Instant) -> Result<(), Error> {
        for (number, conn) in self.pool.iter().enumerate() {
            let (shared, conn) = (self.shared.clone(), conn.clone());
            let thread = threads::spawn(&format!("xylem-page-{number}"), move |runtime| {
                pages::run(shared, conn, runtime, number == 0)
            })?;
            lock(&self.threads).push(thread);
        }
        let config = &self.shared.config;
        let ping = self.ping_until(until).map_err(|mut e| {
            if e.status == Status::NotFound {
                // The branch is missing, not a page.
                e.status = Status::Error;
            }
            self.explain(e)
        })?;
        let ping = ping.0;
        if config.epoch != 0 && ping.epoch > config.epoch {
            self.shared
                .fence(&format!("the newest epoch is {}", ping.epoch));
            return Err(self.shared.fenced_error());
        }
        if config.epoch != 0 {
            let (shared, begin) = (self.shared.clone(), self.begin.clone());
            let thread = threads::spawn("xylem-redo", move |_| redo::run(shared, begin))?;
            lock(&self.threads).push(thread);
            let queue = self
                .begin
                .wait(until, &self.shared.limits)
                .map_err(|e| self.explain(e))?;
            let _ = self.redo.set(queue);
        }
        Ok(())
    }

    /// Adds the context and a hint to an error of initialisation.
    fn explain(&self, error: Error) -> Error {
        let config = &self.shared.config;
        let message = match error.status {
            Status::Timeout => format!(
                "cannot reach page server {}: {}; hint: check that it runs and that \
                 innodb_page_server_address and innodb_page_server_port are right",
                config.server(),
                error.message
            ),
            _ => format!(
                "{} (branch {}, epoch {})",
                error.message, config.branch, config.epoch
            ),
        };
        Error::new(error.status, message)
    }

    /// The state that all connections share.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// The redo stream; `None` for a reader.
    pub fn redo(&self) -> Option<&Arc<Queue>> {
        self.redo.get()
    }

    /// Reads one page and waits for it.
    pub fn get_page(&self, wanted: PageWanted) -> Status {
        if is_library_thread() {
            return self.refuse("a page callback must not wait for another page");
        }
        self.shared.stats.pages_read.add(1);
        let waiter = Waiter::new();
        match self.submit(wanted, Done::Sync(waiter.clone())) {
            Ok(()) => waiter.wait(),
            Err(status) => status,
        }
    }

    /// Starts reading one page. `callback` is called when the read completes,
    /// unless this function returns an error.
    ///
    /// # Errors
    /// When the read cannot be queued.
    pub fn get_page_async(&self, wanted: PageWanted, callback: Callback) -> Result<(), Status> {
        self.shared.stats.pages_read_async.add(1);
        self.submit(wanted, Done::Async(callback))
    }

    /// Reads many pages, waits for all of them, and returns their statuses in
    /// order.
    pub fn get_pages(&self, wanted: &[PageWanted]) -> Vec<Status> {
        if is_library_thread() {
            let status = self.refuse("a page callback must not wait for other pages");
            return vec![status; wanted.len()];
        }
        self.shared.stats.pages_read.add(wanted.len() as u64);
        let batch = Batch::new(wanted.len());
        for (index, wanted) in wanted.iter().enumerate() {
            if let Err(status) = self.submit(*wanted, Done::Batch(batch.clone(), index)) {
                batch.tell(index, status);
            }
        }
        batch.wait()
    }

    fn refuse(&self, message: &str) -> Status {
        remember(&Error::new(Status::Invalid, message));
        Status::Invalid
    }

    fn submit(&self, wanted: PageWanted, done: Done) -> Result<(), Status> {
        if self.shared.is_fenced() {
            remember(&self.shared.fenced_error());
            return Err(Status::Fenced);
        }
        let now = self.shared.limits.now();
        let call = PageCall {
            space_id: wanted.space_id,
            page_no: wanted.page_no,
            // The compute must see the state of its attach. Pages that it never
            // changed are not newer than that.
            min_lsn: wanted.min_lsn.max(self.shared.config.start_lsn),
            target: wanted.target,
            started: now,
            failures: 0,
            done: Some(done),
        };
        self.choose().push(call).map_err(|error| {
            remember(&error);
            error.status
        })
    }

    /// The connection with the fewest calls in flight, preferably an established
    /// one. Connections with equal load take turns.
    fn choose(&self) -> &Conn {
        let count = self.pool.len();
        let first = self.turn.fetch_add(1, Ordering::Relaxed);
        let mut best = first % count;
        let mut best_load = self.pool[best].load();
        for step in 1..count {
            let at = (first.wrapping_add(step)) % count;
            let load = self.pool[at].load();
            if load < best_load {
                (best, best_load) = (at, load);
            }
        }
        &self.pool[best]
    }

    /// Queues redo.
    ///
    /// # Errors
    /// Those of [`Queue::push_redo`]. A reader always gets an error.
    pub fn stream_wal(&self, start_lsn: u64, redo: &[u8]) -> Result<(), Error> {
        let queue = self.writer()?;
        queue.push_redo(start_lsn, redo, &self.shared.limits, &self.shared.stats)
    }

    /// Waits until everything queued up to `lsn` is durable.
    ///
    /// # Errors
    /// Those of [`Queue::wait_lsn`]. A reader always gets an error.
    pub fn wait_durable(&self, lsn: u64) -> Result<(), Error> {
        let queue = self.writer()?;
        let started = self.shared.limits.now();
        let result = queue.wait_lsn(lsn, &self.shared.limits);
        self.shared.stats.durable_waits.add(1);
        let waited = self.shared.limits.now().duration_since(started).as_micros();
        self.shared
            .stats
            .durable_wait_us
            .add(u64::try_from(waited).unwrap_or(u64::MAX));
        result
    }

    fn writer(&self) -> Result<&Arc<Queue>, Error> {
        self.redo
            .get()
            .ok_or_else(|| Error::new(Status::Invalid, "a reader (epoch 0) has no redo stream"))
    }

    /// Pings the server. Returns the answer and the round-trip time.
    ///
    /// # Errors
    /// When the server does not answer within the retry limit, or refuses the
    /// call.
    pub fn ping(&self) -> Result<(PingResponse, Duration), Error> {
        self.ping_until(self.shared.limits.now() + self.shared.limits.retry_limit())
    }

    fn ping_until(&self, until: Instant) -> Result<(PingResponse, Duration), Error> {
        let call = Unary {
            path: PING,
            message: ping_request(),
            limit: 64 << 10,
            read: PingResponse::decode,
            what: "ping",
        };
        let (ping, took) = self.unary(call, Patience::Until(until))?;
        self.shared.reach.back(self.shared.limits.now());
        let stats = &self.shared.stats;
        stats.lsn_applied.raise(ping.applied_lsn);
        if self.redo.get().is_none() {
            // A reader gets no acknowledgements of redo.
            stats.lsn_durable.raise(ping.durable_lsn);
        }
        Ok((ping, took))
    }

    /// Makes a unary call and retries it as `patience` says. Returns the answer
    /// and the duration of the last attempt.
    ///
    /// # Errors
    /// The server's refusal, or a timeout with the last failure.
    pub fn unary<T>(&self, call: Unary<'_, T>, patience: Patience) -> Result<(T, Duration), Error> {
        let Unary {
            path,
            message,
            limit,
            read,
            what,
        } = call;
        if is_library_thread() {
            return Err(Error::new(
                Status::Invalid,
                format!("{what}: a page callback must not make this call"),
            ));
        }
        let limits = &self.shared.limits;
        let mut jitter = Jitter::from(&self.shared.config.entropy);
        let mut failures = 0;
        let mut stalling = None;
        let begin = self.shared.limits.now();
        let gives_up = || match patience {
            Patience::Until(until) => until,
            Patience::WhileAlive => limits.gives_up(begin),
        };
        loop {
            if self.shared.is_fenced() {
                return Err(self.shared.fenced_error());
            }
            // The first connection is as good as any other.
            let Some(conn) = self.pool.first() else {
                return Err(Error::new(Status::Invalid, "no connections"));
            };
            let up = conn.wait_up(gives_up(), limits)?;
            let timeout = limits.request_timeout();
            let started = self.shared.limits.now();
            let call = unary(
                up.requests,
                &self.shared.metadata,
                path,
                message.clone(),
                limit,
                read,
            );
            let result = up
                .runtime
                .block_on(async { tokio::time::timeout(timeout, call).await });
            let trouble = match result {
                Ok(Ok(value)) => {
                    limits.heard(self.shared.limits.now());
                    return Ok((value, limits.now().duration_since(started)));
                }
                Ok(Err(Closed::Status(status))) => {
                    if !status.code.retry_request() && status.code != Code::Cancelled {
                        return Err(self.shared.refused(&status, what));
                    }
                    let now = self.shared.limits.now();
                    let why = format!("{what}: {status}");
                    stalling.get_or_insert_with(|| self.shared.stalls.begin());
                    self.shared.stalls.waits(begin, &why, now);
                    status.to_string()
                }
                Ok(Err(closed)) => closed.to_string(),
                Err(_) => format!("no answer within {} ms", timeout.as_millis()),
            };
            failures += 1;
            let wait = jitter.wait(failures);
            if self.shared.limits.now() + wait >= gives_up() && !self.is_there(patience, timeout) {
                return Err(Error::new(
                    Status::Timeout,
                    format!("{what}: failed after {failures} attempts: {trouble}"),
                ));
            }
            // The caller's thread has nothing else to do between two attempts.
            #[allow(clippy::disallowed_methods)]
            std::thread::sleep(wait);
        }
    }

    /// Whether a call that has reached its limit may go on, because the server
    /// answers a ping. The answer extends the limit.
    fn is_there(&self, patience: Patience, timeout: Duration) -> bool {
        matches!(patience, Patience::WhileAlive)
            && self.ping_until(self.shared.limits.now() + timeout).is_ok()
    }

    /// Sends all queued redo, waits until it is durable, and ends all threads.
    pub fn shutdown(&self) {
        if let Some(queue) = self.redo.get() {
            let last = queue.wait_all(&self.shared.limits);
            // Side-file operations may have arrived during the wait, so the
            // queue is waited for once more.
            sidefiles::detach();
            if let Err(error) = last.and_then(|()| queue.wait_all(&self.shared.limits)) {
                remember(&error);
                log::write(Level::Error, &format!("shutdown: {error}"));
            }
        } else {
            sidefiles::detach();
        }
        self.end();
    }

    fn end(&self) {
        for conn in &self.pool {
            conn.stop();
        }
        self.begin.cancel();
        // Not self.redo, because the stream may begin after initialisation has
        // failed.
        if let Some(queue) = self.shared.redo.get() {
            queue.stop();
        }
        let threads = std::mem::take(&mut *lock(&self.threads));
        for thread in threads {
            // A thread that panicked has reported it on standard error.
            let _ = thread.join();
        }
        self.shared.stats.connected.set(0);
    }
}
