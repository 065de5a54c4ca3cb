//! Simulated writers against ingest of several speeds.

use super::*;

const MIB: f64 = 1024.0 * 1024.0;
const SOFT: u64 = 256 << 20;

/// Simulates a writer that sends groups of `group` bytes as fast as pacing allows for
/// `seconds`, with ingest at `ingest` bytes per second.
struct Run {
    lag_max: f64,
    sent: f64,
    wait_max: Duration,
}

fn run(ingest: impl Fn(f64) -> f64, group: u64, seconds: f64) -> Run {
    const STEP: f64 = 0.001;
    let mut pace = Pace::default();
    let (mut now, mut sent, mut applied) = (0.0, 0.0_f64, 0.0_f64);
    let (mut lag_max, mut wait_max) = (0.0_f64, Duration::ZERO);
    // The limit of the WAL, in bytes per second.
    let wal = 200.0 * MIB;
    while now < seconds {
        let mut took = group as f64 / wal;
        sent += group as f64;
        let lag = (sent - applied).max(0.0) as u64;
        let at = Duration::from_secs_f64(now);
        let mut owed = pace.after(at, group, applied as u64, pressure(lag, SOFT, 0, 1));
        let mut waited = Duration::ZERO;
        while let Some(wait) = owed {
            waited += wait;
            let until = wait.as_secs_f64();
            let mut passed = 0.0;
            while passed < until {
                applied = (applied + ingest(now) * STEP).min(sent);
                passed += STEP;
                now += STEP;
            }
            let lag = (sent - applied).max(0.0) as u64;
            owed = pace.rest(
                Duration::from_secs_f64(now),
                applied as u64,
                pressure(lag, SOFT, 0, 1),
            );
        }
        while took > 0.0 {
            let step = took.min(STEP);
            applied = (applied + ingest(now) * step).min(sent);
            now += step;
            took -= step;
        }
        wait_max = wait_max.max(waited);
        lag_max = lag_max.max(sent - applied);
    }
    Run {
        lag_max,
        sent,
        wait_max,
    }
}

#[test]
fn the_lag_has_a_bound_however_slow_ingest_is() {
    for rate in [0.5, 2.0, 10.0, 50.0, 150.0] {
        let run = run(|_| rate * MIB, 1 << 20, 600.0);
        assert!(
            run.lag_max < 3.1 * SOFT as f64,
            "ingest of {rate} MiB/s: a lag of {} MiB",
            run.lag_max / MIB
        );
        // The writer is not slowed below the rate of ingest.
        let ingested = rate * MIB * 600.0;
        assert!(
            run.sent > 0.9 * ingested,
            "ingest of {rate} MiB/s: {} MiB were sent",
            run.sent / MIB
        );
    }
}

#[test]
fn ingest_that_stops_leaves_a_trickle() {
    let run = run(
        |now| if now < 10.0 { 50.0 * MIB } else { 0.0 },
        64 << 10,
        3600.0,
    );
    let trickle = RATE_MIN * 3600.0;
    assert!(
        run.lag_max < 3.1 * SOFT as f64 + trickle,
        "a lag of {} MiB",
        run.lag_max / MIB
    );
    assert!(run.wait_max <= Duration::from_secs(3), "{:?}", run.wait_max);
}

#[test]
fn a_fast_ingest_slows_nobody() {
    let run = run(|_| 500.0 * MIB, 1 << 20, 60.0);
    assert_eq!(run.wait_max, Duration::ZERO);
}

#[test]
fn a_small_commit_waits_for_its_own_bytes() {
    let mut pace = Pace::default();
    let pressure = 1.9;
    let mut waited = Duration::ZERO;
    // A lone client: one commit of 2 KiB every 5 ms is 0.4 MiB/s.
    for n in 0..1000u64 {
        let now = Duration::from_millis(5 * n);
        let applied = 10 * (1 << 20) * n / 200;
        waited += pace.after(now, 2048, applied, pressure).unwrap_or_default();
    }
    assert!(waited < Duration::from_millis(50), "{waited:?}");
}

#[test]
fn debt_of_merges_counts_too() {
    assert_eq!(pressure(0, SOFT, 20, 10), 2.0);
    assert_eq!(pressure(0, SOFT, 300, 10), MERGE_PRESSURE_MAX);
    assert!(pressure(SOFT / 2, SOFT, 1, 10) < 1.0);
    assert_eq!(pressure(5, 0, 0, 0), 5.0);
}
