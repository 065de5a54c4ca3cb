//! The task that removes trimmed objects, and void ones before them. It never
//! removes a claim: a writer that has lost the line would have to take the
//! claim's name next.

use super::format::Folder;
use super::objects::{Fault, located};
use super::shared::Shared;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Objects removed with one request.
const REMOVED_AT_ONCE: usize = 1000;

/// Removes what is trimmed, until it is dropped.
pub(crate) async fn run(shared: Arc<Shared>) {
    // Objects from here on are counted in `stored`.
    let mut counted = shared.first();
    // The first round looks at all folders: late requests of earlier writers
    // may have left objects.
    let mut from = Folder(0);
    loop {
        shared.trim.notified().await;
        let to = shared.first();
        match remove(&shared, from, counted, to).await {
            Ok(()) => {
                counted = counted.max(to);
                from = Folder::of(to);
            }
            // Tried again with the next trim.
            Err(fault) => tracing::warn!(
                wal = %shared.objects.remote.place(""),
                error = %fault.error(),
                "trimmed objects could not be removed; the next trim tries again"
            ),
        }
    }
}

/// Removes all objects of entries before number `to`.
async fn remove(shared: &Shared, from: Folder, counted: u64, to: u64) -> Result<(), Fault> {
    let Some(last) = to.checked_sub(1) else {
        return Ok(());
    };
    for folder in shared.objects.folders().await? {
        if folder < from || folder > Folder::of(last) {
            continue;
        }
        let rows = shared.objects.list(folder).await?;
        let gone = |number| number < to;
        let removed: Vec<_> = rows
            .iter()
            .filter(|r| gone(r.name.number) && !r.is_claim())
            .collect();
        for rows_at_once in removed.chunks(REMOVED_AT_ONCE) {
            let names: Vec<String> = rows_at_once.iter().map(|r| r.name.to_string()).collect();
            shared.objects.remote.remove(&names).await?;
            // Void objects were not counted.
            let of_the_line = |number| number >= counted && number < to;
            let bytes = rows_at_once
                .iter()
                .filter(|r| of_the_line(r.name.number))
                .filter(|r| located(&rows, r.name.number) == Some(***r))
                .map(|r| r.bytes)
                .sum();
            shared.stored.fetch_sub(bytes, Ordering::Relaxed);
        }
    }
    Ok(())
}
