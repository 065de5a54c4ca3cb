//! The gateway's metrics; docs/metrics.md lists names and units.
//!
//! A branch has metrics once a client has logged in there: names that clients make up leave
//! no trace.

use crate::computes::Reached;
use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// Buckets in seconds: from the start of a compute on a fast machine to that of one whose
/// server starts as well.
const WAKE_BUCKETS: [f64; 12] = [
    0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 2.5, 5.0, 10.0, 30.0,
];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BranchLabel {
    branch: String,
}

/// Makes histograms of starts.
#[derive(Clone, Debug)]
struct Wakes;

impl MetricConstructor<Histogram> for Wakes {
    fn new_metric(&self) -> Histogram {
        Histogram::new(WAKE_BUCKETS)
    }
}

/// The metrics of all branches, and of clients before they are on one.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Mutex<Registry>,
    /// Connections that are open, also before their login.
    pub connections: Gauge,
    /// Connections beyond the limit.
    pub too_many: Counter,
    clients: Family<BranchLabel, Gauge>,
    parked: Family<BranchLabel, Gauge>,
    logins: Family<BranchLabel, Counter>,
    wakes: Family<BranchLabel, Histogram, Wakes>,
    wake_failures: Family<BranchLabel, Counter>,
    sleeps: Family<BranchLabel, Counter>,
    restored: Family<BranchLabel, Counter>,
    bereaved: Family<BranchLabel, Counter>,
    pooled: Family<BranchLabel, Counter>,
    commands: Family<BranchLabel, Counter>,
    answers: Family<BranchLabel, Counter>,
}

/// The metrics of a branch.
#[derive(Clone, Debug)]
pub(crate) struct BranchMetrics {
    /// Clients that are logged in.
    pub clients: Gauge,
    /// Clients whose sessions are on no compute.
    pub parked: Gauge,
    pub logins: Counter,
    /// Seconds of the starts of its compute.
    pub wakes: Histogram,
    pub wake_failures: Counter,
    pub sleeps: Counter,
    /// Sessions that were made anew.
    pub restored: Counter,
    /// Sessions whose compute has died, and that survived it.
    pub bereaved: Counter,
    /// Sessions that have made room for others.
    pub pooled: Counter,
    /// Bytes from clients.
    pub commands: Counter,
    /// Bytes to clients.
    pub answers: Counter,
}

impl Metrics {
    pub fn new() -> Metrics {
        let metrics = Metrics {
            registry: Mutex::default(),
            connections: Gauge::default(),
            too_many: Counter::default(),
            clients: Family::default(),
            parked: Family::default(),
            logins: Family::default(),
            wakes: Family::new_with_constructor(Wakes),
            wake_failures: Family::default(),
            sleeps: Family::default(),
            restored: Family::default(),
            bereaved: Family::default(),
            pooled: Family::default(),
            commands: Family::default(),
            answers: Family::default(),
        };
        metrics.register();
        metrics
    }

    fn register(&self) {
        let mut all = self.registry.lock();
        let all = all.sub_registry_with_prefix("xylem_gateway");
        all.register(
            "connections",
            "Open connections of clients, also before their login",
            self.connections.clone(),
        );
        all.register(
            "connections_refused",
            "Connections beyond the limit",
            self.too_many.clone(),
        );
        all.register(
            "clients",
            "Clients that are logged in",
            self.clients.clone(),
        );
        all.register(
            "parked",
            "Clients whose sessions are on no compute",
            self.parked.clone(),
        );
        all.register("logins", "Logins", self.logins.clone());
        all.register_with_unit(
            "wake",
            "Time from a client's need of a compute to its readiness",
            Unit::Seconds,
            self.wakes.clone(),
        );
        all.register(
            "wake_failures",
            "Starts of computes that failed",
            self.wake_failures.clone(),
        );
        all.register(
            "sleeps",
            "Computes that were put to sleep",
            self.sleeps.clone(),
        );
        all.register(
            "sessions_restored",
            "Sessions that were made anew on another compute",
            self.restored.clone(),
        );
        all.register(
            "sessions_bereaved",
            "Sessions that survived the death of their compute",
            self.bereaved.clone(),
        );
        all.register(
            "sessions_pooled",
            "Sessions that left their compute to make room for those of other clients",
            self.pooled.clone(),
        );
        all.register_with_unit(
            "commands",
            "Bytes that clients have sent after their login",
            Unit::Bytes,
            self.commands.clone(),
        );
        all.register_with_unit(
            "answers",
            "Bytes that computes have sent to clients after their login",
            Unit::Bytes,
            self.answers.clone(),
        );
    }

    /// The metrics of a branch.
    pub fn of(&self, branch: &str) -> BranchMetrics {
        let label = BranchLabel {
            branch: branch.to_owned(),
        };
        BranchMetrics {
            clients: self.clients.get_or_create_owned(&label),
            parked: self.parked.get_or_create_owned(&label),
            logins: self.logins.get_or_create_owned(&label),
            wakes: self.wakes.get_or_create_owned(&label),
            wake_failures: self.wake_failures.get_or_create_owned(&label),
            sleeps: self.sleeps.get_or_create_owned(&label),
            restored: self.restored.get_or_create_owned(&label),
            bereaved: self.bereaved.get_or_create_owned(&label),
            pooled: self.pooled.get_or_create_owned(&label),
            commands: self.commands.get_or_create_owned(&label),
            answers: self.answers.get_or_create_owned(&label),
        }
    }

    /// All metrics in the OpenMetrics text format.
    pub fn scrape(&self) -> String {
        let mut text = String::new();
        // A string takes everything.
        let _ = encode(&mut text, &self.registry.lock());
        text
    }
}

impl BranchMetrics {
    /// Counts the start of a compute, once.
    pub fn woken(&self, compute: &mut Reached) {
        if let Some(took) = compute.started.take() {
            self.wakes.observe(took.as_secs_f64());
        }
    }
}

/// One more in a gauge, until it is dropped.
pub(crate) struct Counted(Gauge);

impl Counted {
    pub fn one(gauge: &Gauge) -> Counted {
        gauge.inc();
        Counted(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}
