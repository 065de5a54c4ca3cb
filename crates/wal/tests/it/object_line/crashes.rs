//! The process dies with objects on their way.

use super::{Compute, Site, frames, one_each};
use crate::common::net::Net;
use crate::common::objects::{block_on, fresh_prefix, place, read_from};
use object_store::ObjectStore;
use object_store::memory::InMemory;
use std::sync::Arc;
use std::time::Duration;
use xylem_wal::{ObjectWal, Position, Wal};

#[test]
fn the_process_dies_at_any_object() {
    block_on(async {
        for dies_at in 0..25 {
            for seed in 0..4 {
                crash_at(dies_at, seed).await;
            }
        }
    });
}

/// Lives until object `dies_at`, and dies with up to four on their way, which
/// are done at once, later, or never.
async fn crash_at(dies_at: u64, seed: u64) {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let site = Site {
        net: Net::new(Arc::clone(&store), dies_at * 10 + seed),
        store,
        prefix: fresh_prefix("crash"),
    };
    let wire = site.net.wire();
    site.net.hold_after(Some(dies_at));
    let told = Arc::new(parking_lot::Mutex::new((0, 0)));
    let life = {
        let (wire, prefix, told) = (Arc::clone(&wire), site.prefix.clone(), Arc::clone(&told));
        tokio::spawn(async move {
            let place = place(wire as _, &prefix);
            let wal = ObjectWal::open(&place, one_each()).await.unwrap();
            for _ in 0..2 {
                let mut compute = Compute::attach(&wal).await;
                for _ in 0..5 {
                    compute.append(&wal, 2).await;
                    *told.lock() = (compute.epoch.0, wal.durable().borrow().seq().0);
                }
                let durable = compute.durable(&wal).await;
                *told.lock() = (compute.epoch.0, durable.seq().0);
            }
            std::future::pending::<()>().await;
        })
    };
    let net = Arc::clone(&site.net);
    let mut idle = 0;
    while idle < 5 {
        tokio::time::sleep(Duration::from_millis(1)).await;
        let now = (net.is_held(), net.puts());
        idle = if now.0 || net.puts() > dies_at {
            idle + 1
        } else {
            0
        };
    }
    net.hold_after(None);
    net.kill(&wire).await;
    life.abort();
    net.hold(false);
    let wal = site.open().await;
    let durable = *wal.durable().borrow();
    let told = *told.lock();
    assert!(
        (durable.epoch().0, durable.seq().0) >= told,
        "{durable:?} after {told:?}"
    );
    let mut compute = Compute::attach(&wal).await;
    compute.write(&wal, 3).await;
    let entries = read_from(wal, Position(0)).await;
    assert_eq!(
        frames(&entries)[frames(&entries).len() - 3..][0],
        (compute.epoch.0, 1)
    );
    net.deliver().await;
    let again = read_from(site.open().await, Position(0)).await;
    assert_eq!(again, entries, "what came late changes nothing");
    assert_eq!(site.objects().await.entries().len(), entries.len());
}
