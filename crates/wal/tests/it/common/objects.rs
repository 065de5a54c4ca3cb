//! WALs in object stores, for the tests.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test panics where it fails"
)]

use super::net::{Net, Weather, Wire};
use object_store::ObjectStore;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use parking_lot::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::runtime::{Handle, Runtime};
use xylem_ambient::Entropy;
use xylem_objects::testing::S3Server;
use xylem_objects::{BucketConfig, GiveUp, Objects, Retry};
use xylem_wal::conformance::{self, HandClock, Store};
use xylem_wal::{BoxFuture, Entry, ObjectWal, ObjectWalConfig, Position, Wal, WalError};

/// Where requests run.
pub fn runtime() -> Handle {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    let runtime = RUNTIME.get_or_init(|| {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap()
    });
    runtime.handle().clone()
}

/// Small enough that every test crosses objects.
pub fn small() -> ObjectWalConfig {
    ObjectWalConfig {
        object_bytes: 3 << 10,
        queue_bytes: 6 << 10,
        max_frame_bytes: 2 << 10,
        linger: Duration::ZERO,
        puts_max: 3,
        adaptive: false,
        hedge: false,
        cache_bytes: 5 << 10,
        read_ahead_bytes: 8 << 10,
        read_ahead_objects: 4,
        retry: Retry {
            first_wait: Duration::from_millis(1),
            longest_wait: Duration::from_millis(5),
            give_up: GiveUp::Never,
            attempt_timeout: Duration::from_millis(100),
        },
        patience: Duration::from_secs(20),
        drain: Duration::from_secs(20),
        ..ObjectWalConfig::new(runtime())
    }
}

/// The folder `prefix` of a store.
pub fn place(store: Arc<dyn ObjectStore>, prefix: &Path) -> Objects {
    let whole = Objects::on(runtime(), store, "test://", BucketConfig::default());
    whole.folder(prefix.as_ref())
}

/// A WAL under a prefix of its own.
pub struct ObjectWals {
    net: Arc<Net>,
    prefix: Path,
    wire: Mutex<Arc<Wire>>,
    clock: HandClock,
}

impl ObjectWals {
    pub fn new(store: Arc<dyn ObjectStore>, prefix: Path, weather: Weather) -> ObjectWals {
        let net = Net::new(store, 7);
        net.set_weather(weather);
        let wire = Mutex::new(net.wire());
        ObjectWals {
            net,
            prefix,
            wire,
            clock: HandClock::default(),
        }
    }
}

impl Store for ObjectWals {
    fn open(&self) -> BoxFuture<'_, Result<Arc<dyn Wal>, WalError>> {
        Box::pin(async {
            let config = ObjectWalConfig {
                clock: self.clock.clock(),
                puts_max: 64,
                adaptive: true,
                hedge: true,
                ..small()
            };
            let wire = Arc::clone(&*self.wire.lock());
            let wal = ObjectWal::open(&place(wire, &self.prefix), config).await?;
            Ok(Arc::new(wal) as Arc<dyn Wal>)
        })
    }

    fn crash(&self, _seed: u64) {
        let dead = {
            let mut wire = self.wire.lock();
            std::mem::replace(&mut *wire, self.net.wire())
        };
        let net = Arc::clone(&self.net);
        let (sender, receiver) = std::sync::mpsc::sync_channel(1);
        runtime().spawn(async move {
            net.kill(&dead).await;
            net.hold(false);
            let _ = sender.send(());
        });
        receiver.recv().unwrap();
    }

    fn hold(&self, held: bool) -> bool {
        self.net.hold(held);
        true
    }

    fn exclusive(&self) -> bool {
        false
    }

    fn clock(&self) -> &HandClock {
        &self.clock
    }

    fn queue_bytes(&self) -> u64 {
        small().queue_bytes
    }

    fn frame_bytes_max(&self) -> u64 {
        small().max_frame_bytes
    }
}

/// A real S3 server: that of `XYLEM_TEST_S3`, or the one that tests have.
pub fn real_store() -> Arc<dyn ObjectStore> {
    let (url, settings): (String, Vec<_>) = match std::env::var("XYLEM_TEST_S3") {
        Ok(url) => (url, std::env::vars().collect()),
        Err(_) => {
            let server = S3Server::shared().unwrap();
            (server.place(), server.env())
        }
    };
    let options = settings
        .into_iter()
        .filter(|(name, _)| name.starts_with("AWS_"))
        .map(|(name, value)| (name.to_ascii_lowercase(), value));
    let url = url.parse().expect("XYLEM_TEST_S3 holds a URL");
    let (store, prefix) = object_store::parse_url_opts(&url, options).unwrap();
    Arc::new(PrefixStore::new(store, prefix))
}

/// A prefix that was never used.
pub fn fresh_prefix(what: &str) -> Path {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let nth = COUNT.fetch_add(1, Ordering::Relaxed);
    let run = Entropy::system().next().unwrap() as u64;
    Path::from(format!("test-{what}/{run:016x}-{nth}"))
}

/// Runs the conformance suite over any object store, each test under a prefix
/// of its own. The entry point for a real one.
pub fn conforms(store: &Arc<dyn ObjectStore>, weather: Weather) {
    conformance::run(|| ObjectWals::new(Arc::clone(store), fresh_prefix("conformance"), weather));
}

/// Runs a test beside the threads that requests run on.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    let patience = Duration::from_secs(100);
    let done = runtime().block_on(async { tokio::time::timeout(patience, future).await });
    done.expect("the test hangs")
}

/// All entries from `position` on. The WAL is dropped.
pub async fn read_from(wal: ObjectWal, position: Position) -> Vec<Entry> {
    let reading = tokio::task::spawn_blocking(move || {
        let mut reader = wal.read_from(position).unwrap();
        std::iter::from_fn(move || reader.next().unwrap()).collect()
    });
    reading.await.unwrap()
}

/// A few seeds, or those that `XYLEM_TEST_SEEDS` says.
pub fn seeds(few: std::ops::Range<u64>) -> std::ops::Range<u64> {
    let Ok(text) = std::env::var("XYLEM_TEST_SEEDS") else {
        return few;
    };
    let (from, to) = text.split_once("..").expect("FROM..TO");
    from.parse().unwrap()..to.parse().unwrap()
}
