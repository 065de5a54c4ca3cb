//! The links that threads share, and the attempts at a request until it succeeds, is
//! refused, or has waited too long.

use super::call::{Callback, Outcome, PageCall, Request, Target};
use super::link::Link;
use crate::backoff::Jitter;
use crate::refusal::Closed;
use crate::shared::{Shared, remember};
use crate::socket::Socket;
use crate::status::{Error, Status};
use crate::threads::{is_library_thread, lock};
use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};
use xylem_wire::{GetPage, Role, Standing};

/// The largest number of requests that one thread makes at once on a link: as many as the
/// server works on. Some 200 pages of a start are then one round trip.
const AT_ONCE: usize = 256;

/// How long a request is tried.
#[derive(Clone, Copy, Debug)]
pub enum Patience {
    /// Until this instant, whatever the server answers.
    Until(Instant),
    /// Without a limit while the server responds that it cannot answer yet; up
    /// to the retry limit while the server does not respond.
    WhileAlive,
}

/// The connections for page reads.
#[derive(Debug)]
pub struct Pool {
    shared: Arc<Shared>,
    state: Mutex<State>,
    /// A link was established, an attempt failed, or the pool was stopped.
    changed: Condvar,
    /// Page reads that nobody waits for.
    inbox: Mutex<Inbox>,
}

#[derive(Debug)]
struct State {
    links: Vec<Arc<Link>>,
    /// A thread is connecting.
    dialing: bool,
    /// Attempts to connect that failed since the last one that succeeded.
    failures: u32,
    /// When to try again.
    next_dial: Instant,
    trouble: Option<Closed>,
    /// A link has broken, and none was established since.
    broken: bool,
    jitter: Jitter,
    stopped: bool,
    /// When the requests began that wait for a link or for their next attempt.
    resting: HashMap<u64, Instant>,
    next_rest: u64,
}

/// Page reads for the background thread.
#[derive(Debug, Default)]
struct Inbox {
    /// The background thread's link.
    link: Option<Arc<Link>>,
    /// Calls that wait for their next attempt.
    again: Vec<(Instant, PageCall)>,
    stopped: bool,
}

impl Pool {
    /// A pool without links.
    pub fn new(shared: Arc<Shared>) -> Pool {
        let now = shared.limits.now();
        let jitter = Jitter::from(&shared.config.entropy);
        Pool {
            shared,
            state: Mutex::new(State {
                links: Vec::new(),
                dialing: false,
                failures: 0,
                next_dial: now,
                trouble: None,
                broken: false,
                jitter,
                stopped: false,
                resting: HashMap::new(),
                next_rest: 0,
            }),
            changed: Condvar::new(),
            inbox: Mutex::default(),
        }
    }

    /// The state that all connections share.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Reads one page into `target`.
    pub fn get_page(&self, get: GetPage, target: Target) -> Status {
        let started = self.shared.limits.now();
        let request = Request::Page(get, target);
        let result = self.request(request, Patience::WhileAlive);
        self.done(started, result.map(|_| target.len()))
    }

    /// Reads many pages. The statuses are in the order of the requests.
    pub fn get_pages(&self, wanted: &[(GetPage, Target)]) -> Vec<Status> {
        let limits = &self.shared.limits;
        // The patience is that of one call, however many pages it wants.
        let begin = limits.now();
        let mut statuses = Vec::with_capacity(wanted.len());
        for wanted in wanted.chunks(AT_ONCE) {
            let started = limits.now();
            let page = |(get, target): &(GetPage, Target)| Request::Page(*get, *target);
            let requests: Vec<Request> = wanted.iter().map(page).collect();
            let (results, _) = self.attempts(&requests, begin, Patience::WhileAlive);
            for (result, (_, target)) in results.into_iter().zip(wanted) {
                statuses.push(self.done(started, result.map(|_| target.len())));
            }
        }
        statuses
    }

    fn done(&self, started: Instant, result: Result<usize, Error>) -> Status {
        let stats = &self.shared.stats;
        let waited = self.shared.limits.now().duration_since(started);
        stats
            .page_wait_us
            .add(u64::try_from(waited.as_micros()).unwrap_or(u64::MAX));
        match result {
            Ok(bytes) => {
                stats.page_bytes.add(bytes as u64);
                Status::Ok
            }
            Err(error) => {
                stats.page_errors.add(1);
                remember(&error);
                error.status
            }
        }
    }

    /// Asks for the newest state of the branch. Returns the time of the round trip, too.
    ///
    /// # Errors
    /// As for [`Pool::request`].
    pub fn ping(&self, patience: Patience) -> Result<(Standing, Duration), Error> {
        match self.request(Request::Ping, patience)? {
            (Outcome::Pong(standing), took) => Ok((standing, took)),
            _ => Err(Error::new(
                Status::Error,
                "ping: the answer is of another kind",
            )),
        }
    }

    /// Makes the request, and makes it again as `patience` says. Returns the answer and
    /// the duration of the last attempt.
    ///
    /// # Errors
    /// The server's refusal, or a timeout with the last failure.
    pub fn request(
        &self,
        request: Request,
        patience: Patience,
    ) -> Result<(Outcome, Duration), Error> {
        let begin = self.shared.limits.now();
        let (mut results, took) = self.attempts(&[request], begin, patience);
        let result = results.pop().unwrap_or_else(|| Err(stopped()));
        result.map(|answer| (answer, took))
    }

    /// As [`Pool::request`], for many at a time. The results are in the order of the
    /// requests.
    pub fn requests(
        &self,
        requests: &[Request],
        patience: Patience,
    ) -> Vec<Result<Outcome, Error>> {
        let begin = self.shared.limits.now();
        let some = requests.chunks(AT_ONCE);
        some.flat_map(|some| self.attempts(some, begin, patience).0)
            .collect()
    }

    /// Makes the requests, which began at `begin`, on one link, and makes those that
    /// failed again together. Also returns the duration of the last attempt.
    fn attempts(
        &self,
        requests: &[Request],
        begin: Instant,
        patience: Patience,
    ) -> (Vec<Result<Outcome, Error>>, Duration) {
        let limits = &self.shared.limits;
        let mut results: Vec<_> = requests.iter().map(|_| Err(stopped())).collect();
        // The requests without a result, and what the server said last.
        let mut open: Vec<(usize, String)> = (0..requests.len())
            .map(|index| (index, String::new()))
            .collect();
        let mut took = Duration::ZERO;
        let mut failures = 0;
        let mut stalling = None;
        let error = loop {
            let link = match self.pick(begin, patience) {
                Ok(link) => link,
                Err(error) => break error,
            };
            let made: Vec<Request> = open.iter().map(|(index, _)| requests[*index]).collect();
            let sent = limits.now();
            let outcomes = link.call(&made, begin, limits);
            took = limits.now().duration_since(sent);
            let tried = std::mem::take(&mut open);
            for ((index, _), outcome) in tried.into_iter().zip(outcomes) {
                results[index] = match self.shared.result(&requests[index], outcome) {
                    Tried::Over(result) => result,
                    Tried::Waits(why) => {
                        stalling.get_or_insert_with(|| self.shared.stalls.begin());
                        self.shared.stalls.waits(begin, &why, limits.now());
                        open.push((index, why));
                        continue;
                    }
                    Tried::Failed(why) => {
                        open.push((index, why));
                        continue;
                    }
                };
            }
            if open.is_empty() {
                return (results, took);
            }
            failures += 1;
            self.shared.stats.page_retries.add(open.len() as u64);
            let wait = lock(&self.state).jitter.wait(failures);
            let (now, until) = (limits.now(), patience.until(begin, &self.shared));
            if now >= until {
                for (index, why) in std::mem::take(&mut open) {
                    results[index] = Err(too_late(failures, &why));
                }
                return (results, took);
            }
            if let Err(error) = self.rest(begin, wait.min(until - now)) {
                break error;
            }
        };
        for (index, _) in open {
            results[index] = Err(error.clone());
        }
        (results, took)
    }

    /// Waits before the next attempt of a request that began at `begin`.
    fn rest(&self, begin: Instant, wait: Duration) -> Result<(), Error> {
        let until = self.shared.limits.now() + wait;
        let mut state = lock(&self.state);
        let rest = state.next_rest;
        state.next_rest += 1;
        state.resting.insert(rest, begin);
        let result = loop {
            let now = self.shared.limits.now();
            if state.stopped {
                break Err(stopped());
            }
            if now >= until || self.shared.is_fenced() {
                break Ok(());
            }
            state = self
                .changed
                .wait_timeout(state, until - now)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        };
        state.resting.remove(&rest);
        result
    }

    /// The link for a request that began at `begin`: one that is idle, otherwise a new
    /// one, otherwise the one with the least load.
    fn pick(&self, begin: Instant, patience: Patience) -> Result<Arc<Link>, Error> {
        let mut state = lock(&self.state);
        loop {
            if state.stopped {
                return Err(stopped());
            }
            if self.shared.is_fenced() {
                return Err(self.shared.fenced_error());
            }
            state.remove_broken();
            let best = state.links.iter().min_by_key(|link| link.load()).cloned();
            let now = self.shared.limits.now();
            let full = state.links.len() >= self.shared.config.connections as usize;
            let waits = state.dialing || now < state.next_dial;
            match best {
                Some(link) if full || waits || link.load() == 0 => return Ok(link),
                best if !waits => {
                    state.dialing = true;
                    drop(state);
                    let dialed = self.dial(Role::Pages);
                    state = lock(&self.state);
                    state.dialing = false;
                    let dialed = self.dialed(&mut state, dialed, now);
                    self.changed.notify_all();
                    match (dialed, best) {
                        // The welcome may have fenced this compute.
                        (Ok(_), _) if self.shared.is_fenced() => continue,
                        (Ok(link), _) => return Ok(link),
                        (Err(Some(refused)), _) => return Err(refused),
                        (Err(None), Some(link)) => return Ok(link),
                        (Err(None), None) => {}
                    }
                }
                _ => {}
            }
            state = self.wait(state, begin, patience)?;
        }
    }

    /// Waits until there may be a link.
    fn wait<'a>(
        &'a self,
        mut state: std::sync::MutexGuard<'a, State>,
        begin: Instant,
        patience: Patience,
    ) -> Result<std::sync::MutexGuard<'a, State>, Error> {
        let limits = &self.shared.limits;
        let (now, until) = (limits.now(), patience.until(begin, &self.shared));
        if now >= until {
            let server = self.shared.config.server();
            let why = match &state.trouble {
                Some(closed) => format!("page server {server} is unreachable: {closed}"),
                None => format!("page server {server}: no connection in time"),
            };
            return Err(Error::new(Status::Timeout, why));
        }
        let rest = state.next_rest;
        state.next_rest += 1;
        state.resting.insert(rest, begin);
        let next = if state.dialing {
            until
        } else {
            state.next_dial.min(until)
        };
        // At least a millisecond, so that a time close to now does not cause a busy
        // loop.
        let nap = next
            .saturating_duration_since(now)
            .max(Duration::from_millis(1));
        let mut state = self
            .changed
            .wait_timeout(state, nap)
            .unwrap_or_else(PoisonError::into_inner)
            .0;
        state.resting.remove(&rest);
        Ok(state)
    }

    /// Notes the outcome of an attempt to connect. `Err(None)`: try again later.
    fn dialed(
        &self,
        state: &mut State,
        dialed: Result<Link, Closed>,
        begun: Instant,
    ) -> Result<Arc<Link>, Option<Error>> {
        let closed = match dialed {
            Ok(link) => {
                let link = Arc::new(link);
                state.failures = 0;
                state.trouble = None;
                if std::mem::take(&mut state.broken) {
                    self.shared.stats.reconnects.add(1);
                }
                state.links.push(Arc::clone(&link));
                if state.stopped {
                    link.close(Closed::Broken("the library is being shut down".to_owned()));
                }
                return Ok(link);
            }
            Err(closed) => closed,
        };
        state.failures += 1;
        let wait = state.jitter.wait(state.failures);
        state.next_dial = begun.max(self.shared.limits.now()) + wait;
        state.trouble = Some(closed.clone());
        match self.shared.refuses(&closed, "page connection") {
            Some(refused) => Err(Some(refused)),
            None => Err(None),
        }
    }

    /// Connects once.
    pub fn dial(&self, role: Role) -> Result<Link, Closed> {
        let shared = &self.shared;
        let connected = Socket::connect(shared, role);
        let now = shared.limits.now();
        match connected {
            Ok((socket, received, standing)) => {
                shared.reach.back(now);
                shared.stands(&standing);
                Ok(Link::new(socket, received, now))
            }
            Err(closed) => {
                if self.shared.is_worth_a_retry(&closed) {
                    let limit = shared.limits.retry_limit();
                    shared.reach.lost(&closed.to_string(), limit, now);
                }
                Err(closed)
            }
        }
    }

    /// Starts reading a page. The call completes later, unless this returns an error.
    ///
    /// # Errors
    /// When this compute was fenced, or the library is being shut down.
    pub fn get_page_async(
        &self,
        get: GetPage,
        target: Target,
        callback: Callback,
    ) -> Result<(), Error> {
        let shared = &self.shared;
        let call = PageCall::new(get, target, shared.limits.now(), callback);
        let mut inbox = lock(&self.inbox);
        let error = if inbox.stopped {
            stopped()
        } else if shared.is_fenced() {
            shared.fenced_error()
        } else {
            let Some(link) = inbox.link.clone() else {
                inbox.again.push((call.started, call));
                return Ok(());
            };
            drop(inbox);
            let request = Request::Page(get, target);
            let Some(call) = link.submit_background(request, Some(call), &shared.limits) else {
                return Ok(());
            };
            // The link has just ended. The call is made on the next one.
            let mut inbox = lock(&self.inbox);
            if !inbox.stopped {
                inbox.again.push((call.started, call));
                return Ok(());
            }
            call.forget();
            return Err(stopped());
        };
        call.forget();
        Err(error)
    }

    /// Gives the background thread its link, or takes it away.
    pub fn set_background(&self, link: Option<Arc<Link>>) {
        lock(&self.inbox).link = link;
    }

    /// Has `call` tried again at `at`.
    pub fn again(&self, at: Instant, call: PageCall) {
        lock(&self.inbox).again.push((at, call));
    }

    /// Takes the calls whose next attempt is due at `now`, at most `limit`. If there are
    /// fewer, also returns when the next one is due.
    pub fn due(&self, now: Instant, limit: usize) -> (Vec<PageCall>, Option<Instant>) {
        let mut inbox = lock(&self.inbox);
        if inbox.again.is_empty() {
            return (Vec::new(), None);
        }
        let mut room = limit;
        let (due, later): (Vec<_>, Vec<_>) = std::mem::take(&mut inbox.again)
            .into_iter()
            .partition(|(at, _)| {
                let taken = *at <= now && room > 0;
                room -= usize::from(taken);
                taken
            });
        inbox.again = later;
        let next = inbox.again.iter().map(|(at, _)| *at).min();
        // Without room, the next one is due when an answer makes some.
        let next = next.filter(|_| room > 0);
        (due.into_iter().map(|(_, call)| call).collect(), next)
    }

    /// Passes on the outcome of a page read that nobody waits for.
    pub fn ended(&self, mut call: PageCall, outcome: Outcome) {
        let shared = &self.shared;
        let (started, bytes) = (call.started, call.target.len());
        let request = Request::Page(call.get, call.target);
        let result = match shared.result(&request, outcome) {
            Tried::Over(result) => result,
            Tried::Waits(why) | Tried::Failed(why) => {
                let now = shared.limits.now();
                shared.stalls.waits(started, &why, now);
                call.failures = call.failures.saturating_add(1);
                let until = shared.limits.gives_up(started);
                if now < until {
                    shared.stats.page_retries.add(1);
                    let wait = lock(&self.state).jitter.wait(call.failures);
                    return self.again((now + wait).min(until), call);
                }
                Err(too_late(call.failures, &why))
            }
        };
        call.complete(self.done(started, result.map(|_| bytes)));
    }

    /// The start of the oldest request, if there is one.
    pub fn oldest(&self) -> Option<Instant> {
        let state = lock(&self.state);
        let resting = state.resting.values().min().copied();
        let links = state.links.iter().filter_map(|link| link.oldest()).min();
        drop(state);
        let inbox = lock(&self.inbox);
        let again = inbox.again.iter().map(|(_, call)| call.started).min();
        let link = inbox.link.as_ref().and_then(|link| link.oldest());
        [resting, links, again, link].into_iter().flatten().min()
    }

    /// Ends every link, because the server does not respond.
    pub fn lost(&self, why: &Closed) {
        let links = lock(&self.state).links.clone();
        for link in links {
            link.close(why.clone());
        }
    }

    /// Whether the library is being shut down.
    pub fn is_stopped(&self) -> bool {
        lock(&self.inbox).stopped
    }

    /// Waits for `wait`, or until the library is shut down.
    pub fn nap(&self, wait: Duration) {
        let state = lock(&self.state);
        let until = self.shared.limits.now() + wait;
        let limits = &self.shared.limits;
        let _ = self
            .changed
            .wait_timeout_while(state, wait, |state| !state.stopped && limits.now() < until)
            .unwrap_or_else(PoisonError::into_inner);
    }

    /// Ends all links and requests.
    pub fn stop(&self) {
        lock(&self.state).stopped = true;
        self.changed.notify_all();
        let mut inbox = lock(&self.inbox);
        inbox.stopped = true;
        let link = inbox.link.clone();
        drop(inbox);
        let why = Closed::Broken("the library is being shut down".to_owned());
        self.lost(&why);
        if let Some(link) = link {
            link.close(why);
        }
    }

    /// Takes the calls that wait for another attempt, at the end.
    pub fn rest_of_calls(&self) -> Vec<PageCall> {
        let again = std::mem::take(&mut lock(&self.inbox).again);
        again.into_iter().map(|(_, call)| call).collect()
    }
}

impl State {
    fn remove_broken(&mut self) {
        if self.links.iter().any(|link| link.is_over()) {
            self.links.retain(|link| !link.is_over());
            self.broken = true;
        }
    }
}

impl Patience {
    fn until(self, begin: Instant, shared: &Shared) -> Instant {
        match self {
            Patience::Until(until) => until,
            Patience::WhileAlive => shared.limits.gives_up(begin),
        }
    }
}

/// What becomes of a request after an attempt.
#[derive(Debug)]
enum Tried {
    /// It has its result.
    Over(Result<Outcome, Error>),
    /// It is made again: the server responds that it cannot answer yet.
    Waits(String),
    /// It is made again.
    Failed(String),
}

impl Shared {
    /// What becomes of `request` after an attempt that ended with `outcome`.
    fn result(&self, request: &Request, outcome: Outcome) -> Tried {
        if let Outcome::Page | Outcome::Space(_) | Outcome::Log(_) | Outcome::Pong(_) = outcome {
            return Tried::Over(Ok(outcome));
        }
        let what = request.name();
        if self.is_fenced() {
            return Tried::Over(Err(self.fenced_error()));
        }
        match outcome {
            Outcome::Refused(refusal) => {
                if refusal.code.retry_request() {
                    Tried::Waits(format!("{what}: {refusal}"))
                } else {
                    Tried::Over(Err(self.refused(&refusal, &what)))
                }
            }
            Outcome::WrongSize(bytes) => Tried::Over(Err(Error::new(
                Status::Error,
                format!(
                    "{what} has {bytes} bytes, and its buffer another size; hint: compare \
                     innodb_page_size with the project's page size"
                ),
            ))),
            Outcome::Closed(closed) => match self.refuses(&closed, &what) {
                Some(error) => Tried::Over(Err(error)),
                None => Tried::Failed(format!("{what}: {closed}")),
            },
            _ => Tried::Failed(format!(
                "{what}: no answer from {} within {} ms",
                self.config.server(),
                self.limits.request_timeout().as_millis()
            )),
        }
    }

    /// The error if the server does not want this compute, so that another connection
    /// would end the same way.
    fn refuses(&self, closed: &Closed, what: &str) -> Option<Error> {
        let Closed::Refused(refusal) = closed else {
            return None;
        };
        if refusal.code.retry_connection() {
            return None;
        }
        let mut error = self.refused(refusal, what);
        if error.status == Status::NotFound {
            // The branch is missing, not a page.
            error.status = Status::Error;
        }
        Some(error)
    }

    fn is_worth_a_retry(&self, closed: &Closed) -> bool {
        !matches!(closed, Closed::Refused(refusal) if !refusal.code.retry_connection())
    }

    /// Notes what a welcome or a pong says.
    pub fn stands(&self, standing: &Standing) {
        let stats = &self.stats;
        stats.lsn_applied.raise(standing.ack.applied_lsn);
        if self.redo.get().is_none() {
            // A reader gets no acknowledgements of redo.
            stats.lsn_durable.raise(standing.ack.durable_lsn);
        }
        if self.config.epoch != 0 && standing.epoch > self.config.epoch {
            self.fence(&format!("the newest epoch is {}", standing.epoch));
        }
    }
}

fn too_late(attempts: u32, why: &str) -> Error {
    let message = format!("failed after {attempts} attempts: {why}");
    Error::new(Status::Timeout, message)
}

fn stopped() -> Error {
    Error::new(Status::Cancelled, "the library is being shut down")
}

/// Refuses to wait on a thread of the library: a page callback that waits for another
/// page would wait for itself.
///
/// # Errors
/// On a thread of the library.
pub fn may_wait(what: &str) -> Result<(), Error> {
    if is_library_thread() {
        let message = format!("{what}: a page callback must not wait");
        return Err(Error::new(Status::Invalid, message));
    }
    Ok(())
}
