//! Scrub on demand: runs on a thread of its own, and ends when the caller disconnects or
//! the server stops.

use super::{InspectService, Names};
use crate::node::{Node, Phase};
use crate::rpc::Answers;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use xylem_pages::Store;
use xylem_pages::scrub::{ScrubEvent, ScrubOptions, ScrubProgress, ScrubReport};
use xylem_proto::inspect::{self as wire, ScrubDone, ScrubUpdate, scrub_update::Update};

/// Updates that are buffered for the caller.
const AHEAD: usize = 64;
/// The shortest interval between two reports of progress.
const PROGRESS_EVERY: Duration = Duration::from_millis(200);

/// Allows another scrub when it is dropped.
struct OneAtATime(Arc<AtomicBool>);

impl Drop for OneAtATime {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// Starts a scrub.
pub(super) fn begin(
    service: &InspectService,
    store: Arc<Store>,
    names: Names,
    options: ScrubOptions,
) -> Result<Answers<ScrubUpdate>, Status> {
    if service.scrubbing.swap(true, Ordering::AcqRel) {
        return Err(Status::failed_precondition(
            "a scrub is already running: wait for it, or stop it",
        ));
    }
    let guard = OneAtATime(Arc::clone(&service.scrubbing));
    let (sender, receiver) = mpsc::channel(AHEAD);
    let node = Arc::clone(&service.node);
    tokio::task::spawn_blocking(move || {
        let _guard = guard;
        run(&node, &store, &names, &options, &sender);
    });
    Ok(Box::pin(ReceiverStream::new(receiver)))
}

fn run(
    node: &Node,
    store: &Store,
    names: &Names,
    options: &ScrubOptions,
    sender: &mpsc::Sender<Result<ScrubUpdate, Status>>,
) {
    let send = |update| {
        let update = Ok(ScrubUpdate {
            update: Some(update),
        });
        sender.blocking_send(update).is_ok()
    };
    let clock = &node.config.clock;
    let mut told = None::<Instant>;
    let report = store.scrub(options, &mut |event| {
        if sender.is_closed() || node.phase() == Phase::Stopping {
            return ControlFlow::Break(());
        }
        let sent = match event {
            ScrubEvent::Finding(finding) => send(Update::Finding(names.finding(finding))),
            ScrubEvent::Progress(progress) => {
                if told.is_some_and(|at| clock.since(at) < PROGRESS_EVERY) {
                    return ControlFlow::Continue(());
                }
                told = Some(clock.instant());
                send(Update::Progress(wire_progress(progress, names)))
            }
        };
        match sent {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(()),
        }
    });
    if report.stopped {
        let _ = sender.blocking_send(Err(crate::rpc::status::stopping()));
    } else {
        send(Update::Done(done(&report, names)));
    }
}

fn wire_progress(p: &ScrubProgress, names: &Names) -> wire::ScrubProgress {
    wire::ScrubProgress {
        branch: p.branch.map(|id| names.get(id)).unwrap_or_default(),
        branches_done: p.branches_done,
        branches: p.branches,
        layers_done: p.layers_done,
        layers: p.layers,
        bytes_done: p.bytes_done,
        bytes: p.bytes,
    }
}

fn done(report: &ScrubReport, names: &Names) -> ScrubDone {
    ScrubDone {
        progress: Some(wire_progress(&report.progress, names)),
        damage: report.damage,
        unreadable: report.unreadable,
        orphans: report.orphans,
    }
}
