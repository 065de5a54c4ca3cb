//! The task that removes trimmed objects, and void ones before them. It never
//! removes a claim: a writer that has lost the line would have to take the
//! claim's name next.

use super::format::Folder;
use super::objects::Fault;
use super::shared::Shared;
use std::sync::Arc;

/// Objects removed with one request.
const REMOVED_AT_ONCE: usize = 1000;

/// Removes what is trimmed, until it is dropped.
pub(crate) async fn run(shared: Arc<Shared>) {
    // The first round looks at all folders: late requests of earlier writers
    // may have left objects.
    let mut from = Folder(0);
    loop {
        shared.trim.notified().await;
        let to = shared.first();
        match remove(&shared, from, to).await {
            Ok(()) => from = Folder::of(to),
            // Tried again with the next trim.
            Err(fault) => tracing::warn!(
                wal = %shared.objects.remote.place(""),
                error = %fault.error(),
                "trimmed objects could not be removed; the next trim tries again"
            ),
        }
    }
}

/// Removes all objects of entries before number `to`, folder by folder upwards.
async fn remove(shared: &Shared, from: Folder, to: u64) -> Result<(), Fault> {
    let Some(last) = to.checked_sub(1) else {
        return Ok(());
    };
    for folder in shared.objects.folders().await? {
        if folder < from || folder > Folder::of(last) {
            continue;
        }
        let rows = shared.objects.list(folder).await?;
        let removed: Vec<String> = rows
            .iter()
            .filter(|r| r.name.number < to && !r.is_claim())
            .map(|r| r.name.to_string())
            .collect();
        for names in removed.chunks(REMOVED_AT_ONCE) {
            shared.objects.remote.remove(names).await?;
        }
    }
    if let Some(bytes) = bytes_before(shared, to).await? {
        shared.removed_before(bytes);
    }
    Ok(())
}

/// Bytes of the line before object `number`, if that is there.
async fn bytes_before(shared: &Shared, number: u64) -> Result<Option<u64>, Fault> {
    let cached = shared.cache.lock().get(number);
    if let Some(block) = cached {
        return Ok(Some(block.header.bytes_before));
    }
    let header = match shared.objects.locate(number).await? {
        Some(row) => shared.objects.header(row).await?,
        None => None,
    };
    Ok(header.map(|header| header.bytes_before))
}
