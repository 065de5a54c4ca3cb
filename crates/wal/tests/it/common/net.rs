//! A simulated network between servers and one object store: requests are held
//! back, delayed, lost before or after they did something, and done long after
//! their sender has died.
//!
//! Apart from `xylem_objects::testing::Faulty`, which injects errors into one
//! client's requests by script: here several clients have wires of their own
//! that die one by one, and puts that are under way arrive in any order.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test panics where it fails"
)]

use async_trait::async_trait;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

/// The faults of the wire, in thousandths of all requests.
#[derive(Clone, Copy, Debug, Default)]
pub struct Weather {
    /// Fails before it reaches the store.
    pub lost: u64,
    /// Is done, and the answer is lost.
    pub unanswered: u64,
    /// Never answers, and is done much later, or never.
    pub stuck: u64,
    /// Is done only after a wait of up to `delay_us`.
    pub delayed: u64,
    pub delay_us: u64,
}

impl Weather {
    pub fn calm() -> Weather {
        Weather::default()
    }

    /// Requests overtake each other.
    pub fn wind() -> Weather {
        Weather {
            delayed: 700,
            delay_us: 1500,
            ..Weather::default()
        }
    }

    /// They overtake each other by far.
    pub fn gale() -> Weather {
        Weather {
            unanswered: 20,
            delayed: 500,
            delay_us: 12_000,
            ..Weather::default()
        }
    }

    pub fn storm() -> Weather {
        Weather {
            lost: 60,
            unanswered: 60,
            stuck: 15,
            delayed: 500,
            delay_us: 2000,
        }
    }
}

/// How a store refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It does not answer.
    Down,
    /// The credentials are not good for this.
    Denied,
    /// There is no such bucket.
    NoBucket,
    /// The store cannot do this.
    Unable,
}

/// The store, and the wires of all processes to it.
#[derive(Debug)]
pub struct Net {
    inner: Arc<dyn ObjectStore>,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    random: u64,
    /// The lives that have ended.
    dead: Vec<u64>,
    lives: u64,
    held: bool,
    /// Objects of these lives whose names contain these are held back.
    held_names: Vec<(u64, String)>,
    /// All objects of these lives are held back.
    held_lives: Vec<u64>,
    /// This life's reads of objects whose names contain this are held back,
    /// after so many.
    held_reads: Option<(u64, String, u64)>,
    /// Reads that are held back.
    reads_waiting: u64,
    /// Every request fails so.
    refusal: Option<Refusal>,
    weather: Weather,
    /// Objects on their way to the store.
    flying: BTreeMap<u64, (u64, Path, PutPayload, PutOptions)>,
    flying_next: u64,
    /// Those whose sender no longer waits: done some time, or never.
    late: Vec<(Path, PutPayload, PutOptions)>,
    puts: u64,
    /// After so many more objects were made, everything is held.
    hold_after: Option<u64>,
    requests: u64,
}

impl State {
    fn draw(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.draw() % limit.max(1)
    }

    /// Dies: what was on its way is done, or not, or much later.
    fn kill(&mut self, life: u64) -> Vec<(Path, PutPayload, PutOptions)> {
        self.dead.push(life);
        let flying: Vec<u64> = self
            .flying
            .iter()
            .filter(|(_, f)| f.0 == life)
            .map(|(id, _)| *id)
            .collect();
        let mut now = Vec::new();
        for id in flying {
            let Some((_, path, payload, options)) = self.flying.remove(&id) else {
                continue;
            };
            match self.below(3) {
                0 => now.push((path, payload, options)),
                1 => self.late.push((path, payload, options)),
                _ => {}
            }
        }
        now
    }
}

impl Net {
    pub fn new(inner: Arc<dyn ObjectStore>, seed: u64) -> Arc<Net> {
        let state = State {
            random: seed,
            ..State::default()
        };
        Arc::new(Net {
            inner,
            state: Mutex::new(state),
            changed: Notify::new(),
        })
    }

    /// A new process' wire.
    pub fn wire(self: &Arc<Net>) -> Arc<Wire> {
        let mut state = self.state.lock();
        state.lives += 1;
        Arc::new(Wire {
            net: Arc::clone(self),
            life: state.lives,
        })
    }

    pub fn set_weather(&self, weather: Weather) {
        self.state.lock().weather = weather;
    }

    /// Holds back the making of objects, or lets it go.
    pub fn hold(&self, held: bool) {
        self.state.lock().held = held;
        self.changed.notify_waiters();
    }

    /// Holds back one process' objects whose names contain this, or lets all
    /// go.
    pub fn hold_name(&self, part: Option<(&Wire, &str)>) {
        let mut state = self.state.lock();
        match part {
            Some((wire, part)) => state.held_names.push((wire.life, part.to_owned())),
            None => state.held_names.clear(),
        }
        self.changed.notify_waiters();
    }

    /// Holds back the objects of one process, or lets all go.
    pub fn hold_wire(&self, wire: Option<&Wire>) {
        let mut state = self.state.lock();
        match wire {
            Some(wire) => state.held_lives.push(wire.life),
            None => state.held_lives.clear(),
        }
        self.changed.notify_waiters();
    }

    /// Holds back one process' reads of objects whose names contain this, all
    /// but the first `count`; or lets all go.
    pub fn hold_reads(&self, part: Option<(&Wire, &str, u64)>) {
        self.state.lock().held_reads =
            part.map(|(wire, part, count)| (wire.life, part.to_owned(), count));
        self.changed.notify_waiters();
    }

    /// Reads that are held back.
    pub fn reads_waiting(&self) -> u64 {
        self.state.lock().reads_waiting
    }

    /// From now on the store refuses everything, or no longer.
    pub fn refuse(&self, refusal: Option<Refusal>) {
        self.state.lock().refusal = refusal;
    }

    /// Objects on their way.
    pub fn flying(&self) -> usize {
        self.state.lock().flying.len()
    }

    /// Holds it back after `count` more.
    pub fn hold_after(&self, count: Option<u64>) {
        self.state.lock().hold_after = count;
    }

    /// Whether objects are held back.
    pub fn is_held(&self) -> bool {
        self.state.lock().held
    }

    pub fn requests(&self) -> u64 {
        self.state.lock().requests
    }

    pub fn puts(&self) -> u64 {
        self.state.lock().puts
    }

    /// The process of that wire dies.
    pub async fn kill(&self, wire: &Wire) {
        let now = self.state.lock().kill(wire.life);
        self.changed.notify_waiters();
        for (path, payload, options) in now {
            let _ = self.inner.put_opts(&path, payload, options).await;
        }
    }

    /// Everything that is late is done now.
    pub async fn deliver(&self) {
        let late = std::mem::take(&mut self.state.lock().late);
        for (path, payload, options) in late {
            let _ = self.inner.put_opts(&path, payload, options).await;
        }
    }

    /// Delivers a late request now and then.
    async fn deliver_some(&self) {
        let late = {
            let mut state = self.state.lock();
            let count = state.late.len() as u64;
            if count == 0 || state.below(3) > 0 {
                return;
            }
            let at = state.below(count) as usize;
            state.late.swap_remove(at)
        };
        let _ = self.inner.put_opts(&late.0, late.1, late.2).await;
    }
}

/// One process' connection to the store.
#[derive(Clone, Debug)]
pub struct Wire {
    net: Arc<Net>,
    life: u64,
}

impl fmt::Display for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Wire({})", self.net.inner)
    }
}

enum Fate {
    Done,
    Lost,
    Unanswered,
    Stuck,
}

fn broken(what: &str) -> Error {
    Error::Generic {
        store: "wire",
        source: what.to_owned().into(),
    }
}

impl Wire {
    /// The fate of a request, after its delay.
    async fn fate(&self) -> Fate {
        let (fate, delay) = {
            let mut state = self.net.state.lock();
            state.requests += 1;
            let weather = state.weather;
            let draw = state.below(1000);
            let delay = match state.below(1000) < weather.delayed {
                true => state.below(weather.delay_us),
                false => 0,
            };
            let lost = weather.lost;
            let unanswered = lost + weather.unanswered;
            let stuck = unanswered + weather.stuck;
            let fate = match draw {
                d if d < lost => Fate::Lost,
                d if d < unanswered => Fate::Unanswered,
                d if d < stuck => Fate::Stuck,
                _ => Fate::Done,
            };
            (fate, delay)
        };
        if delay > 0 {
            tokio::time::sleep(Duration::from_micros(delay)).await;
        }
        self.alive().await;
        fate
    }

    /// Never returns to the dead.
    async fn alive(&self) {
        if self.net.state.lock().dead.contains(&self.life) {
            std::future::pending::<()>().await;
        }
    }

    /// How the store refuses, if it does.
    fn refusal(&self) -> Result<()> {
        let source = || "refused".to_owned().into();
        let path = String::new();
        match self.net.state.lock().refusal {
            None => Ok(()),
            Some(Refusal::Down) => Err(broken("connection refused")),
            Some(Refusal::Denied) => Err(Error::PermissionDenied {
                path,
                source: source(),
            }),
            Some(Refusal::Unable) => Err(Error::NotSupported { source: source() }),
            Some(Refusal::NoBucket) => Err(Error::NotFound {
                path,
                source: source(),
            }),
        }
    }

    /// Fails a request that changes nothing.
    async fn look(&self) -> Result<()> {
        self.refusal()?;
        match self.fate().await {
            Fate::Done => Ok(()),
            Fate::Lost | Fate::Unanswered => Err(broken("connection reset")),
            Fate::Stuck => std::future::pending().await,
        }
    }

    /// A stream that begins with such a request.
    fn looked<T: Send + 'static>(
        self,
        then: BoxStream<'static, Result<T>>,
    ) -> BoxStream<'static, Result<T>> {
        let first = async move { self.look().await.map(|()| then) };
        futures::stream::once(first).try_flatten().boxed()
    }

    /// Waits while objects are held back.
    async fn released(&self, location: &Path) {
        loop {
            let changed = self.net.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let held = {
                let state = self.net.state.lock();
                let name = location.to_string();
                state.held
                    || state.held_lives.contains(&self.life)
                    || state
                        .held_names
                        .iter()
                        .any(|(life, part)| *life == self.life && name.contains(part))
            };
            if !held {
                return;
            }
            changed.await;
            self.alive().await;
        }
    }
}

impl Wire {
    /// Waits while such reads are held back.
    async fn read_released(&self, location: &Path) {
        let matches = |state: &State| {
            let held = state.held_reads.as_ref();
            held.is_some_and(|(life, part, _)| {
                *life == self.life && location.as_ref().contains(part)
            })
        };
        {
            let mut state = self.net.state.lock();
            if !matches(&state) {
                return;
            }
            if let Some((.., count @ 1..)) = &mut state.held_reads {
                *count -= 1;
                return;
            }
            state.reads_waiting += 1;
        }
        loop {
            let changed = self.net.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if !matches(&self.net.state.lock()) {
                break;
            }
            changed.await;
        }
        self.net.state.lock().reads_waiting -= 1;
    }
}

#[async_trait]
impl ObjectStore for Wire {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        opts: PutOptions,
    ) -> Result<PutResult> {
        self.alive().await;
        self.refusal()?;
        let id = {
            let mut state = self.net.state.lock();
            state.flying_next += 1;
            let id = state.flying_next;
            let flying = (self.life, location.clone(), payload.clone(), opts.clone());
            state.flying.insert(id, flying);
            match &mut state.hold_after {
                Some(0) => state.held = true,
                Some(more) => *more -= 1,
                None => {}
            }
            id
        };
        // A sender that no longer waits does not call its request back.
        let flying = Flying {
            net: Arc::clone(&self.net),
            id,
        };
        let fate = self.fate().await;
        self.released(location).await;
        self.alive().await;
        self.net.deliver_some().await;
        match fate {
            Fate::Lost => {
                flying.arrived();
                Err(broken("connection refused"))
            }
            Fate::Stuck => {
                // Its sender gives up waiting.
                std::future::pending().await
            }
            Fate::Done | Fate::Unanswered => {
                flying.arrived();
                self.net.state.lock().puts += 1;
                let done = self.net.inner.put_opts(location, payload, opts).await;
                match fate {
                    Fate::Unanswered => Err(broken("connection reset")),
                    _ => done,
                }
            }
        }
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.net.inner.put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.look().await?;
        self.read_released(location).await;
        self.net.inner.get_opts(location, options).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let removed = self.net.inner.delete_stream(locations);
        self.clone().looked(removed)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let listed = self.net.inner.list(prefix);
        self.clone().looked(listed)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.look().await?;
        self.net.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.net.inner.copy_opts(from, to, options).await
    }
}

/// An object on its way. When its sender stops waiting it may arrive all the
/// same.
struct Flying {
    net: Arc<Net>,
    id: u64,
}

impl Flying {
    fn arrived(&self) {
        self.net.state.lock().flying.remove(&self.id);
    }
}

impl Drop for Flying {
    fn drop(&mut self) {
        let mut state = self.net.state.lock();
        if let Some((_, path, payload, options)) = state.flying.remove(&self.id)
            && state.below(2) == 0
        {
            state.late.push((path, payload, options));
        }
    }
}
