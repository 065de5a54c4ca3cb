//! The initialised library: its connections, and the operations that the C
//! interface performs on them.

use crate::config::Config;
use crate::log::{self, Level};
use crate::pages::{self, Callback, Patience, Pool, Target, may_wait};
use crate::redo::{self, Queue, Sending};
use crate::shared::{Shared, remember};
use crate::sidefiles;
use crate::status::{Error, Status};
use crate::tablespace::Fetched;
use crate::threads::{self, lock};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use xylem_wire::{GetPage, Standing};

/// The time limit of initialisation. It is shorter than that of a running
/// compute, because the program that starts one has just talked to the page
/// server.
const INIT_LIMIT: Duration = Duration::from_secs(10);

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
    pool: Arc<Pool>,
    fetched: Fetched,
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
        let shared = Arc::new(Shared::new(config));
        let client = Client {
            pool: Arc::new(Pool::new(Arc::clone(&shared))),
            shared,
            fetched: Fetched::default(),
            redo: OnceLock::new(),
            threads: Mutex::default(),
        };
        let limits = &client.shared.limits;
        let until = limits.now() + INIT_LIMIT.min(limits.retry_limit());
        match client.connect(until) {
            Ok(()) => Ok(client),
            Err(error) => {
                client.end();
                Err(error)
            }
        }
    }

    fn connect(&self, until: Instant) -> Result<(), Error> {
        let pinged = self.pool.ping(Patience::Until(until));
        pinged.map_err(|error| self.explain(error))?;
        if self.shared.is_fenced() {
            return Err(self.shared.fenced_error());
        }
        let (shared, pool) = (Arc::clone(&self.shared), Arc::clone(&self.pool));
        self.spawn("xylem-pages", move || pages::run(&shared, &pool))?;
        if self.shared.config.epoch != 0 {
            let begun = redo::begin(&self.shared, until);
            let queue = begun.map_err(|error| self.explain(error))?;
            let _ = self.redo.set(Arc::clone(&queue));
            let shared = Arc::clone(&self.shared);
            self.spawn("xylem-redo", move || redo::run(&shared, &queue))?;
        }
        Ok(())
    }

    fn spawn(&self, name: &str, run: impl FnOnce() + Send + 'static) -> Result<(), Error> {
        let thread = threads::spawn(name, run)?;
        lock(&self.threads).push(thread);
        Ok(())
    }

    /// Adds the context and a hint to an error of initialisation.
    fn explain(&self, error: Error) -> Error {
        let config = &self.shared.config;
        let message = match error.status {
            Status::Timeout => format!(
                "cannot reach page server {}: {}; hint: check that it runs and that \
                 innodb_page_server_socket, or _address and _port, are right",
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

    /// The connections for page reads and other requests.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// The same, for a caller that outlives the client.
    pub fn pool_shared(&self) -> Arc<Pool> {
        Arc::clone(&self.pool)
    }

    /// Tablespaces that were asked for before they are opened.
    pub fn fetched(&self) -> &Fetched {
        &self.fetched
    }

    /// The redo stream; `None` for a reader.
    pub fn redo(&self) -> Option<&Arc<Queue>> {
        self.redo.get()
    }

    /// Reads one page and waits for it.
    pub fn get_page(&self, wanted: PageWanted) -> Status {
        if let Err(error) = may_wait("a page read") {
            remember(&error);
            return error.status;
        }
        self.shared.stats.pages_read.add(1);
        self.pool.get_page(self.request(&wanted), wanted.target)
    }

    /// Starts reading one page. `callback` is called when the read completes,
    /// unless this function returns an error.
    ///
    /// # Errors
    /// When the read cannot be made.
    pub fn get_page_async(&self, wanted: PageWanted, callback: Callback) -> Result<(), Status> {
        self.shared.stats.pages_read_async.add(1);
        let request = self.request(&wanted);
        let begun = self.pool.get_page_async(request, wanted.target, callback);
        begun.map_err(|error| {
            remember(&error);
            error.status
        })
    }

    /// Reads many pages, waits for all of them, and returns their statuses in
    /// order.
    pub fn get_pages(&self, wanted: &[PageWanted]) -> Vec<Status> {
        if let Err(error) = may_wait("a page read") {
            remember(&error);
            return vec![error.status; wanted.len()];
        }
        self.shared.stats.pages_read.add(wanted.len() as u64);
        let requests: Vec<_> = wanted
            .iter()
            .map(|wanted| (self.request(wanted), wanted.target))
            .collect();
        self.pool.get_pages(&requests)
    }

    fn request(&self, wanted: &PageWanted) -> GetPage {
        let timeout = self.shared.limits.request_timeout();
        // The server's time limit is a little shorter than the client's, so that
        // the reason in its answer arrives before the deadline.
        let server_ms = u32::try_from((timeout * 9 / 10).as_millis()).unwrap_or(u32::MAX);
        GetPage {
            space_id: wanted.space_id,
            page_no: wanted.page_no,
            // The compute must see the state of its attach. Pages that it never
            // changed are not newer than that.
            min_lsn: wanted.min_lsn.max(self.shared.config.start_lsn),
            timeout_ms: server_ms.max(1),
        }
    }

    /// Queues redo and sends it; before a write to the binary log, with that write.
    ///
    /// # Errors
    /// Those of [`Queue::push_redo`]. A reader always gets an error.
    pub fn stream_wal(&self, start_lsn: u64, redo: &[u8]) -> Result<(), Error> {
        let sending = match sidefiles::logs::is_writing() {
            true => Sending::WithNext,
            false => Sending::Now,
        };
        let queue = self.writer()?;
        queue.push_redo(start_lsn, redo, sending, &self.shared)
    }

    /// Waits until everything queued up to `lsn` is durable.
    ///
    /// # Errors
    /// Those of [`Queue::wait_lsn`]. A reader always gets an error.
    pub fn wait_durable(&self, lsn: u64) -> Result<(), Error> {
        let queue = self.writer()?;
        let started = self.shared.limits.now();
        let result = queue.wait_lsn(lsn, &self.shared);
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
    pub fn ping(&self) -> Result<(Standing, Duration), Error> {
        may_wait("ping")?;
        let limits = &self.shared.limits;
        let until = limits.now() + limits.retry_limit();
        let (standing, took) = self.pool.ping(Patience::Until(until))?;
        self.shared.stands(&standing);
        Ok((standing, took))
    }

    /// Sends all queued redo, waits until it is durable, and ends all threads.
    pub fn shutdown(&self) {
        if let Some(queue) = self.redo.get() {
            let last = queue.wait_all(&self.shared);
            // Side-file operations may have arrived during the wait, so the
            // queue is waited for once more.
            sidefiles::detach();
            if let Err(error) = last.and_then(|()| queue.wait_all(&self.shared)) {
                remember(&error);
                log::write(Level::Error, &format!("shutdown: {error}"));
            }
        } else {
            sidefiles::detach();
        }
        self.end();
    }

    fn end(&self) {
        self.shared.end();
        self.pool.stop();
        if let Some(queue) = self.redo.get() {
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
