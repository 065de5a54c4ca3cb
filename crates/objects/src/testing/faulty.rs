//! A store that fails as networks and stores do: at random from a seed, by
//! script, or from some request on for ever. It knows one client; the tests of
//! the WAL have a network of several, whose puts arrive late and out of order
//! (`crates/wal/tests/it/common/net.rs`).

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload,
    ObjectMeta, ObjectStore, ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload,
    PutResult, Result, UploadPart,
};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

/// A kind of request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Writing an object in one request.
    Put,
    /// Reading an object or a range, or looking it up.
    Get,
    /// Listing.
    List,
    /// Removing one object.
    Delete,
    /// Beginning an upload in parts.
    Begin,
    /// Sending a part.
    Part,
    /// Making an upload in parts appear.
    Complete,
}

/// A fault that a request meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It fails and was not done.
    Fail,
    /// It is done, and its answer is lost.
    Lose,
    /// It fails, and is done that much later all the same. Only [`Op::Put`];
    /// others fail.
    Late(Duration),
    /// The store answers that it is asked too much.
    Throttle,
    /// No answer comes, and it is not done.
    Hang,
    /// It is done after a while.
    Slow(Duration),
    /// Half of what is read arrives. Only [`Op::Get`]; others fail.
    Cut,
    /// The store refuses it for good.
    Refuse,
}

/// How many of a thousand requests meet each fault.
#[derive(Clone, Copy, Debug, Default)]
#[allow(missing_docs, reason = "the faults")]
pub struct Rates {
    pub fail: u32,
    pub lose: u32,
    pub late: u32,
    pub throttle: u32,
    pub hang: u32,
    pub slow: u32,
    pub cut: u32,
}

impl Rates {
    /// Some of everything; hangs, which take a test's time, seldom.
    pub fn some() -> Rates {
        Rates {
            fail: 40,
            lose: 40,
            late: 20,
            throttle: 20,
            hang: 1,
            slow: 20,
            cut: 40,
        }
    }
}

struct Rule {
    op: Op,
    name: String,
    skip: u32,
    times: u32,
    fault: Fault,
}

struct State {
    rng: StdRng,
    rates: Rates,
    rules: Vec<Rule>,
    /// Requests so far that change something.
    changes: u64,
    /// The store is dead from this change on.
    dies_at: Option<(u64, bool)>,
    away: bool,
    /// Requests from this one on wait.
    held_from: Option<u64>,
    requests: u64,
    injected: u64,
}

/// Wraps a store. Clones share their faults.
#[derive(Clone)]
pub struct Faulty {
    inner: Arc<dyn ObjectStore>,
    state: Arc<Mutex<State>>,
    healed: Arc<Notify>,
}

impl Faulty {
    /// An empty store in memory.
    pub fn in_memory(seed: u64) -> Faulty {
        Faulty::new(super::memory(), seed)
    }

    /// Without faults until some are asked for.
    pub fn new(inner: Arc<dyn ObjectStore>, seed: u64) -> Faulty {
        Faulty {
            inner,
            state: Arc::new(Mutex::new(State {
                rng: StdRng::seed_from_u64(seed),
                rates: Rates::default(),
                rules: Vec::new(),
                changes: 0,
                dies_at: None,
                away: false,
                held_from: None,
                requests: 0,
                injected: 0,
            })),
            healed: Arc::new(Notify::new()),
        }
    }

    /// Faults at random.
    pub fn rates(&self, rates: Rates) {
        self.state.lock().rates = rates;
    }

    /// The next `times` requests of this kind whose object's name contains
    /// `name` meet `fault`, after `skip` others of them.
    pub fn script(&self, op: Op, name: &str, skip: u32, times: u32, fault: Fault) {
        self.state.lock().rules.push(Rule {
            op,
            name: name.to_owned(),
            skip,
            times,
            fault,
        });
    }

    /// Whether the store is away: everything fails and nothing is done.
    pub fn away(&self, away: bool) {
        self.state.lock().away = away;
    }

    /// Holds request number `n`, counted from 0, and all later ones until
    /// [`Faulty::heal`], as if the network were cut. Held requests whose
    /// callers still wait are then done.
    pub fn hold_from(&self, n: u64) {
        self.state.lock().held_from = Some(n);
    }

    /// Whether a request waits, or has.
    pub fn is_cut(&self) -> bool {
        let state = self.state.lock();
        state.held_from.is_some_and(|n| state.requests > n)
    }

    /// The change number `n`, from 0, and all requests after it are refused,
    /// as if the process had died there: before the change, or with `done`
    /// after it, before its answer.
    pub fn die_at(&self, n: u64, done: bool) {
        self.state.lock().dies_at = Some((n, done));
    }

    /// Requests so far that change something.
    pub fn changes(&self) -> u64 {
        self.state.lock().changes
    }

    /// Requests so far.
    pub fn requests(&self) -> u64 {
        self.state.lock().requests
    }

    /// Faults met so far.
    pub fn injected(&self) -> u64 {
        self.state.lock().injected
    }

    /// No faults from now on.
    pub fn heal(&self) {
        let mut state = self.state.lock();
        state.rates = Rates::default();
        state.rules.clear();
        state.dies_at = None;
        state.away = false;
        state.held_from = None;
        drop(state);
        self.healed.notify_waiters();
    }

    async fn meets(&self, op: Op, path: &Path) -> Option<Fault> {
        let number = {
            let mut state = self.state.lock();
            state.requests += 1;
            state.requests - 1
        };
        loop {
            let healed = self.healed.notified();
            tokio::pin!(healed);
            healed.as_mut().enable();
            if self.state.lock().held_from.is_none_or(|n| number < n) {
                break;
            }
            healed.await;
        }
        let mut state = self.state.lock();
        let fault = state.meets(op, path);
        state.injected += u64::from(fault.is_some());
        fault
    }

    /// Does a request that cannot be cut, or does not.
    async fn pass<T>(
        &self,
        op: Op,
        path: &Path,
        request: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let Some(fault) = self.meets(op, path).await else {
            return request.await;
        };
        match fault {
            Fault::Lose => {
                // A refusal is an answer, and lost alike.
                let _ = request.await;
                Err(error("the answer was lost"))
            }
            Fault::Slow(by) => {
                tokio::time::sleep(by).await;
                request.await
            }
            other => Err(refusal(other).await),
        }
    }
}

impl State {
    fn meets(&mut self, op: Op, path: &Path) -> Option<Fault> {
        let changes = matches!(op, Op::Put | Op::Delete | Op::Complete);
        let change = self.changes;
        self.changes += u64::from(changes);
        if let Some((at, done)) = self.dies_at {
            if changes && change == at && done {
                return Some(Fault::Lose);
            }
            if change >= at && (changes || change > at) {
                return Some(Fault::Refuse);
            }
        }
        if self.away {
            return Some(Fault::Fail);
        }
        for rule in &mut self.rules {
            if rule.op != op || !path.as_ref().contains(&rule.name) || rule.times == 0 {
                continue;
            }
            if rule.skip > 0 {
                rule.skip -= 1;
                continue;
            }
            rule.times -= 1;
            return Some(rule.fault);
        }
        self.at_random()
    }

    fn at_random(&mut self) -> Option<Fault> {
        let r = self.rates;
        let late = Duration::from_millis(self.rng.random_range(0..20));
        let mut n = self.rng.random_range(0..1000);
        for (rate, fault) in [
            (r.fail, Fault::Fail),
            (r.lose, Fault::Lose),
            (r.late, Fault::Late(late)),
            (r.throttle, Fault::Throttle),
            (r.hang, Fault::Hang),
            (r.slow, Fault::Slow(late)),
            (r.cut, Fault::Cut),
        ] {
            if n < rate {
                return Some(fault);
            }
            n -= rate;
        }
        None
    }
}

fn error(what: &str) -> Error {
    Error::Generic {
        store: "Faulty",
        source: what.to_owned().into(),
    }
}

async fn refusal(fault: Fault) -> Error {
    match fault {
        Fault::Throttle => {
            error("Server returned non-2xx status code: 503 Service Unavailable: SlowDown")
        }
        Fault::Hang => std::future::pending().await,
        Fault::Refuse => Error::NotSupported {
            source: "the store is dead".into(),
        },
        _ => error("the connection was lost"),
    }
}

impl std::fmt::Display for Faulty {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Faulty({})", self.inner)
    }
}

impl std::fmt::Debug for Faulty {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}

/// The first half of the data, then an error.
async fn cut(result: GetResult) -> Result<GetResult> {
    let (meta, range, attributes) = (
        result.meta.clone(),
        result.range.clone(),
        result.attributes.clone(),
    );
    let extensions = result.extensions.clone();
    let bytes = result.bytes().await?;
    let half: Bytes = bytes.slice(..bytes.len() / 2);
    let parts = vec![Ok(half), Err(error("the connection was lost"))];
    Ok(GetResult {
        payload: GetResultPayload::Stream(stream::iter(parts).boxed()),
        meta,
        range,
        attributes,
        extensions,
    })
}

#[async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        opts: PutOptions,
    ) -> Result<PutResult> {
        let fault = self.meets(Op::Put, location).await;
        let inner = Arc::clone(&self.inner);
        let path = location.clone();
        let put = async move { inner.put_opts(&path, payload, opts).await };
        match fault {
            None => put.await,
            Some(Fault::Lose) => {
                let _ = put.await;
                Err(error("the answer was lost"))
            }
            Some(Fault::Slow(by)) => {
                tokio::time::sleep(by).await;
                put.await
            }
            Some(Fault::Late(by)) => {
                tokio::spawn(async move {
                    tokio::time::sleep(by).await;
                    let _ = put.await;
                });
                Err(error("the connection was lost"))
            }
            Some(other) => Err(refusal(other).await),
        }
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let begin = self.inner.put_multipart_opts(location, opts);
        let inner = self.pass(Op::Begin, location, begin).await?;
        Ok(Box::new(FaultyUpload {
            faulty: self.clone(),
            path: location.clone(),
            inner,
        }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        match self.meets(Op::Get, location).await {
            None => self.inner.get_opts(location, options).await,
            Some(Fault::Cut) if !options.head => {
                cut(self.inner.get_opts(location, options).await?).await
            }
            Some(Fault::Slow(by)) => {
                tokio::time::sleep(by).await;
                self.inner.get_opts(location, options).await
            }
            Some(other) => Err(refusal(other).await),
        }
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let faulty = self.clone();
        locations
            .then(move |location| {
                let faulty = faulty.clone();
                async move {
                    let path = location?;
                    let delete = faulty.inner.delete(&path);
                    faulty.pass(Op::Delete, &path, delete).await?;
                    Ok(path)
                }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (faulty, list) = (self.clone(), self.inner.list(prefix));
        let path = prefix.cloned().unwrap_or_default();
        stream::once(async move {
            let passed = faulty.pass(Op::List, &path, async { Ok(()) }).await;
            match passed {
                Ok(()) => list,
                Err(e) => stream::iter([Err(e)]).boxed(),
            }
        })
        .flatten()
        .boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let path = prefix.cloned().unwrap_or_default();
        let list = self.inner.list_with_delimiter(prefix);
        self.pass(Op::List, &path, list).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let copy = self.inner.copy_opts(from, to, options);
        self.pass(Op::Put, to, copy).await
    }
}

#[derive(Debug)]
struct FaultyUpload {
    faulty: Faulty,
    path: Path,
    inner: Box<dyn MultipartUpload>,
}

#[async_trait]
impl MultipartUpload for FaultyUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let (faulty, path) = (self.faulty.clone(), self.path.clone());
        let part = self.inner.put_part(data);
        Box::pin(async move { faulty.pass(Op::Part, &path, part).await })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let complete = self.inner.complete();
        self.faulty.pass(Op::Complete, &self.path, complete).await
    }

    async fn abort(&mut self) -> Result<()> {
        self.inner.abort().await
    }
}
