//! Changes of the catalogue whose outcome is unknown.
//!
//! If the put of a catalogue succeeds but its answer is lost, the caller gets an error,
//! and the next start finds the change made. A caller that relied on the error in
//! between used a branch that is gone or has another name. A change therefore does not
//! end before its outcome is known. Meanwhile the caller is told that the outcome is
//! unknown, the affected branches stay held, and other changes are refused, since the
//! next catalogue would decide about this change as well.

use super::{ManageError, blocking};
use crate::node::{Node, Opened, Phase};
use crate::project::Project;
use crate::project::catalog::CatalogError;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{MutexGuard, oneshot};
use tokio::time::Instant;

/// The time after which the caller is told that the outcome is unknown.
const EARLY: Duration = Duration::from_secs(10);
/// How long a change waits for others to end.
const TURN: Duration = Duration::from_secs(60);
/// The first pause between two attempts to settle a change; pauses double.
const PAUSE_MIN: Duration = Duration::from_millis(200);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Tells the caller of a change that the outcome is still unknown, while the change
/// continues.
pub struct Early(Option<oneshot::Sender<ManageError>>);

/// An [`Early`] and the receiver of its message.
pub fn early() -> (Early, oneshot::Receiver<ManageError>) {
    let (tell, told) = oneshot::channel();
    (Early(Some(tell)), told)
}

impl Early {
    /// For a change without a caller that waits.
    pub fn nobody() -> Early {
        Early(None)
    }

    fn tell(&mut self, why: &str) {
        if let Some(tell) = self.0.take() {
            // The caller may have disconnected.
            let _ = tell.send(ManageError::Unsettled(why.to_owned()));
        }
    }
}

/// Takes the lock for changes of branches, unless a change is unsettled.
///
/// # Errors
/// [`ManageError::Unsettled`].
pub(super) async fn lock(opened: &Opened) -> Result<MutexGuard<'_, ()>, ManageError> {
    let mut unsettled = opened.unsettled.subscribe();
    let guard = tokio::select! {
        biased;
        guard = tokio::time::timeout(TURN, opened.changes.lock()) => match guard {
            Ok(guard) => guard,
            Err(_) => {
                return Err(ManageError::Unsettled(format!(
                    "other changes of branches have not finished for {} s; retry",
                    TURN.as_secs()
                )));
            }
        },
        // The sender lives as long as `opened`.
        () = async { drop(unsettled.wait_for(Option::is_some).await) } => {
            return Err(refused(opened));
        }
    };
    if opened.unsettled.borrow().is_some() {
        return Err(refused(opened));
    }
    Ok(guard)
}

fn refused(opened: &Opened) -> ManageError {
    let why = opened.unsettled.borrow().clone().unwrap_or_default();
    ManageError::Unsettled(format!("an earlier change is not settled: {why}"))
}

/// Changes the catalogue. The caller holds the lock for changes, and holds the branches
/// that must not acknowledge commits meanwhile.
///
/// # Errors
/// The error of `edit`, or [`CatalogError`]. The outcome is known on return, unless the
/// server stops or loses the project: then the error is not certain
/// ([`ManageError::is_certain`]).
pub(super) async fn change(
    node: &Arc<Node>,
    early: Early,
    edit: impl FnOnce(&mut Project) -> Result<(), ManageError> + Send + 'static,
) -> Result<(), ManageError> {
    let changing = Arc::clone(node);
    let changed = blocking(move || {
        let opened = changing.opened().ok_or(ManageError::Stopping)?;
        opened.catalog.change(edit)
    })
    .await;
    match (&changed, node.opened()) {
        (Err(ManageError::Catalog(unsettled @ CatalogError::Unsettled { .. })), Some(opened)) => {
            let why = unsettled.to_string();
            tracing::error!(error = why, "a change of branches is not settled");
            opened.unsettled.send_replace(Some(why.clone()));
            let settled = settle(node, early, &why).await;
            match &settled {
                Ok(()) => tracing::info!("the change of branches was made"),
                Err(error) => tracing::error!(%error, "the change of branches stays unsettled"),
            }
            if settled.is_ok() {
                opened.unsettled.send_replace(None);
            }
            settled
        }
        _ => changed,
    }
}

/// Retries until the change is known to be made, or another server owns the project.
async fn settle(node: &Arc<Node>, mut early: Early, why: &str) -> Result<(), ManageError> {
    let told_by = Instant::now() + EARLY;
    let mut pause = PAUSE_MIN;
    loop {
        let asking = Arc::clone(node);
        let mut attempt = tokio::spawn(blocking(move || {
            let opened = asking.opened().ok_or(ManageError::Stopping)?;
            Ok(opened.catalog.settle()?)
        }));
        let settled = match tokio::time::timeout_at(told_by, &mut attempt).await {
            Ok(settled) => settled,
            Err(_) => {
                early.tell(why);
                attempt.await
            }
        };
        match settled {
            Ok(Err(ManageError::Catalog(CatalogError::Unsettled { .. }))) => early.tell(why),
            Ok(settled) => return settled,
            Err(_) => return Err(ManageError::Stopping),
        }
        if node.phase() == Phase::Stopping {
            return Err(ManageError::Unsettled(why.to_owned()));
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = node.stopping() => {}
        }
        pause = (pause * 2).min(PAUSE_MAX);
    }
}
