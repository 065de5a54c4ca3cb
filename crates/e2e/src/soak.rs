//! `cargo xtask soak`: clients that come and go through the gateway for a long time, while the
//! memory, descriptors and threads of every process are sampled. What grows is a leak.
//!
//! Three branches bear the load: `main` is always in use, `nap` sleeps between any two
//! statements, and the compute of `prey` is killed again and again.

pub mod growth;
mod load;

use crate::process::Resources;
use crate::soak::growth::{Bound, Series};
use crate::soak::load::{Load, Tally};
use crate::{Project, kill};
use anyhow::{Context, Result, ensure};
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Time between two samples.
const INTERVAL: Duration = Duration::from_secs(1);
/// Time between two lines of progress.
const PROGRESS: Duration = Duration::from_secs(60);
/// Time between two kills of the compute of `prey`.
const KILLS: Duration = Duration::from_secs(20);
/// The least number of samples from which a slope is told.
const SAMPLES_MIN: usize = 30;
/// The part of the run that is not measured, and its limits.
const WARM_UP_PART: f64 = 0.5;
const WARM_UP_MIN: Duration = Duration::from_secs(30);
const WARM_UP_MAX: Duration = Duration::from_secs(900);

/// The command line.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The length of the load, with the time before it is measured.
    pub length: Duration,
    /// Writes every sample there, as CSV.
    pub csv: Option<PathBuf>,
}

impl Plan {
    /// The time after which growth is measured: until then, caches fill up.
    fn warm_up(&self) -> Duration {
        self.length
            .mul_f64(WARM_UP_PART)
            .clamp(WARM_UP_MIN, WARM_UP_MAX)
    }
}

/// A process under observation, and what it may grow by between the first and the last sample
/// that counts.
struct Observed {
    name: &'static str,
    pid: u32,
    memory: Series,
    descriptors: Series,
    threads: Series,
    memory_bound: Bound,
    descriptors_bound: Bound,
    threads_bound: Bound,
}

/// Descriptors and threads come and go with clients.
const DESCRIPTORS: Bound = Bound {
    amount: 8.0,
    part: 0.05,
};
/// The server keeps a descriptor for each layer, of which there are more and fewer.
const DESCRIPTORS_OF_SERVER: Bound = Bound {
    amount: 32.0,
    part: 0.05,
};
const THREADS: Bound = Bound {
    amount: 4.0,
    part: 0.05,
};
/// The server has pools of threads, which grow with each moment of more work than ever before,
/// up to their limits.
const THREADS_OF_SERVER: Bound = Bound {
    amount: 32.0,
    part: 0.05,
};

impl Observed {
    fn new(name: &'static str, pid: u32, memory_mib: f64, part: f64) -> Observed {
        Observed {
            name,
            pid,
            memory: Series::default(),
            descriptors: Series::default(),
            threads: Series::default(),
            memory_bound: Bound {
                amount: memory_mib * 1024.0,
                part,
            },
            descriptors_bound: match name {
                "server" => DESCRIPTORS_OF_SERVER,
                _ => DESCRIPTORS,
            },
            threads_bound: match name {
                "server" => THREADS_OF_SERVER,
                _ => THREADS,
            },
        }
    }

    fn sample(&mut self, at: Duration) -> Result<Resources> {
        let now = Resources::of(self.pid)
            .with_context(|| format!("the {} has ended, which nobody asked for", self.name))?;
        self.memory.push(at, now.memory_kib as f64);
        self.descriptors.push(at, now.descriptors as f64);
        self.threads.push(at, now.threads as f64);
        Ok(now)
    }

    /// Prints what each resource has grown by; returns those that have grown too much.
    fn judge(&self, from: Duration) -> Result<Vec<String>> {
        let mut bad = Vec::new();
        for (what, unit, series, bound) in [
            ("memory", "KiB", &self.memory, self.memory_bound),
            ("descriptors", "", &self.descriptors, self.descriptors_bound),
            ("threads", "", &self.threads, self.threads_bound),
        ] {
            let growth = series.since(from).growth().with_context(|| {
                format!("too few samples of the {}: run it for longer", self.name)
            })?;
            let allowed = bound.of(growth.mean);
            let verdict = match growth.total > allowed {
                true => "GREW",
                false => "ok",
            };
            println!(
                "{:<8} {what:<11} {:>9.0} {unit:<3} growth {:>+9.1} of {allowed:>8.1} allowed ({:+.1} an hour)  {verdict}",
                self.name, growth.mean, growth.total, growth.per_hour
            );
            if growth.total > allowed {
                bad.push(format!(
                    "{what} of the {} grew by {:.1} {unit}, {allowed:.1} is allowed",
                    self.name, growth.total
                ));
            }
        }
        Ok(bad)
    }
}

/// Runs the load and judges the samples.
///
/// # Errors
/// When something grows, a client has an error that it must not have, money is lost, or a
/// process ends by itself.
pub fn run(plan: &Plan) -> Result<()> {
    let project = Project::with(Vec::new(), &["--memory", "32MiB", "--history", "10m"])?
        .with_gateway()
        .with_api();
    project.up_in_place("32MiB")?;
    project.explained(soak(plan, &project))
}

fn soak(plan: &Plan, project: &Project) -> Result<()> {
    let load = Load::prepare(project)?;
    let mut observed = observed(project)?;
    let mut csv = plan.csv.as_ref().map(File::create).transpose()?;
    if let Some(csv) = &mut csv {
        writeln!(csv, "second,process,memory_kib,descriptors,threads")?;
    }
    let stop = AtomicBool::new(false);
    let begun = Instant::now();
    let tally = Tally::default();
    let sampled = thread::scope(|scope| {
        load.start(scope, &stop, &tally);
        scope.spawn(|| hunt(project, &stop, &tally));
        let sampled = watch(plan, begun, &mut observed, &mut csv, &tally);
        stop.store(true, Ordering::Relaxed);
        sampled
    });
    sampled?;
    println!("{tally}");
    let errors = tally.errors();
    ensure!(errors.is_empty(), "clients failed: {}", errors.join("; "));
    ensure!(
        tally.kills() > 0,
        "no compute was killed: run it for longer"
    );
    load.check(project)?;
    let mut bad = Vec::new();
    for process in &observed {
        bad.extend(process.judge(plan.warm_up())?);
    }
    ensure!(bad.is_empty(), "{}", bad.join("; "));
    println!("nothing grew, nothing was lost");
    Ok(())
}

/// The processes that must live as long as the load, and how much memory they may gain.
fn observed(project: &Project) -> Result<Vec<Observed>> {
    let status = project.json(&["status"])?;
    let pid = |of: &str| -> Result<u32> {
        let pid = status[of]["pid"].as_u64();
        Ok(pid.with_context(|| format!("no {of}"))?.try_into()?)
    };
    let compute = project.compute()?["pid"].as_u64();
    Ok(vec![
        // It has a memory for pages of 32 MiB, and what it knows of layers grows with them.
        Observed::new("server", pid("server")?, 8.0, 0.1),
        Observed::new("gateway", pid("gateway")?, 2.0, 0.05),
        Observed::new("api", pid("api")?, 2.0, 0.05),
        // Of InnoDB's buffer pool, more and more pages are touched.
        Observed::new(
            "compute",
            compute.context("no compute of main")?.try_into()?,
            8.0,
            0.05,
        ),
    ])
}

/// Samples until the end of the plan, or until a client fails.
fn watch(
    plan: &Plan,
    begun: Instant,
    observed: &mut [Observed],
    csv: &mut Option<File>,
    tally: &Tally,
) -> Result<()> {
    let mut told = begun;
    while begun.elapsed() < plan.length && tally.errors().is_empty() {
        thread::sleep(INTERVAL);
        let at = begun.elapsed();
        let mut line = format!("{:>5} s", at.as_secs());
        for process in observed.iter_mut() {
            let now = process.sample(at)?;
            line += &format!(
                "  {} {:.1} MiB, {} files, {} threads",
                process.name,
                now.memory_kib as f64 / 1024.0,
                now.descriptors,
                now.threads
            );
            if let Some(csv) = csv {
                let (second, name) = (at.as_secs(), process.name);
                writeln!(
                    csv,
                    "{second},{name},{},{},{}",
                    now.memory_kib, now.descriptors, now.threads
                )?;
            }
        }
        if told.elapsed() >= PROGRESS {
            told = Instant::now();
            println!("{line}");
        }
    }
    Ok(())
}

/// Kills the compute of `prey` now and then.
fn hunt(project: &Project, stop: &AtomicBool, tally: &Tally) {
    let mut last = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        thread::sleep(Duration::from_millis(100));
        if last.elapsed() < KILLS {
            continue;
        }
        last = Instant::now();
        // It may be between two lives.
        let Some(pid) = project
            .compute_named("prey")
            .ok()
            .and_then(|compute| compute["pid"].as_i64())
            .and_then(|pid| i32::try_from(pid).ok())
        else {
            continue;
        };
        match kill(pid) {
            Ok(()) => tally.killed(),
            Err(error) => tally.failed("killing a compute", &error),
        }
    }
}
