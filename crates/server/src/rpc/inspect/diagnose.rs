//! Diagnose: the health of the store, the disks and the branches.

use super::{Names, time};
use crate::branch::live::OpenBranch;
use crate::config::ServerConfig;
use crate::node::Opened;
use crate::wals::BackedWal;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use xylem_ambient::Entropy;
use xylem_pages::place::Place;
use xylem_pages::scrub::probe;
use xylem_proto::inspect::{self as wire, BranchHealth, DiagnoseResponse, Disk, Hold, Store};

pub(super) fn diagnose(config: &ServerConfig, opened: &Opened, probe: bool) -> DiagnoseResponse {
    let names = Names::of(opened);
    let branches = opened.branches.all();
    let closed = opened.branches.all_closed().into_iter();
    let closed = closed.map(|(branch, closed)| BranchHealth {
        branch,
        branch_id: closed.meta.id.to_string(),
        stopped: format!("it is not open: {}", closed.why),
        ..BranchHealth::default()
    });
    let unsettled = opened.unsettled.borrow().clone();
    DiagnoseResponse {
        now: crate::time::now(&config.clock).to_string(),
        store: Some(store(
            &**opened.store.place(),
            probe.then_some(&config.entropy),
        )),
        disks: disks(config, &**opened.store.place()),
        branches: branches
            .iter()
            .map(|b| health(b, &names))
            .chain(closed)
            .collect(),
        strange: opened.strange.clone(),
        waiting: opened.ownership.doubt().or(unsettled).unwrap_or_default(),
    }
}

fn store(place: &dyn Place, probe: Option<&Entropy>) -> Store {
    let listed = place.folders("branches");
    let error = |result: std::io::Result<()>| {
        let error = result.err();
        error.map(|e| e.to_string()).unwrap_or_default()
    };
    let probe = probe.filter(|_| listed.is_ok());
    Store {
        url: place.url(),
        error: error(listed.map(|_| ())),
        probed: probe.is_some(),
        probe_error: match probe {
            // Whether the store does what everything else relies on.
            Some(entropy) => error(probe::probe(place, entropy)),
            None => String::new(),
        },
    }
}

fn disks(config: &ServerConfig, place: &dyn Place) -> Vec<Disk> {
    let mut out = Vec::new();
    let mut add = |what: &str, path: &Path| {
        let (Ok(free_bytes), Ok(total_bytes)) =
            (fs4::available_space(path), fs4::total_space(path))
        else {
            return;
        };
        out.push(Disk {
            what: what.to_owned(),
            path: path.display().to_string(),
            free_bytes,
            total_bytes,
        });
    };
    add("data", &config.data_dir);
    if let Some(path) = place.url().strip_prefix("file://") {
        add("store", Path::new(path));
    }
    out
}

fn wal_backup(backed: &BackedWal) -> wire::WalBackup {
    let ms = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
    let status = backed.backup();
    wire::WalBackup {
        interval_ms: ms(backed.interval()),
        age_ms: ms(status.age.unwrap_or_default()),
        position: status.position.unwrap_or_default().0,
        trouble: status.trouble.map(|e| e.to_string()).unwrap_or_default(),
    }
}

fn health(branch: &Arc<OpenBranch>, names: &Names) -> BranchHealth {
    let h = branch.pages.health();
    let stats = branch.pages.stats();
    let trouble = |t: &xylem_pages::Trouble| wire::Trouble {
        time: time(Some(t.time_us)),
        message: t.message.clone(),
    };
    BranchHealth {
        branch: branch.name(),
        branch_id: branch.pages.id().to_string(),
        stopped: branch.broken().unwrap_or_default(),
        busy: h.busy,
        applied_lsn: branch.pages.applied().0,
        // A branch that nobody has written since it was made has an empty WAL.
        durable_lsn: h.wal_lsn.0.max(branch.meta.branch_point_lsn),
        resume_lsn: h.resume_lsn.0,
        resume_position: h.resume_position.0,
        wal_first_position: h.wal_first.0,
        wal_end_position: h.wal_end.0,
        layers: stats.layers,
        layer_bytes: stats.layer_bytes,
        runs: h.runs,
        merge_debt_bytes: h.merge_debt_bytes,
        merge_folds: h.merge_folds,
        oldest_lsn: h.oldest.unwrap_or_default().0,
        oldest_time: time(h.oldest_time_us),
        horizon_lsn: h.horizon.unwrap_or_default().0,
        newest_time: time(h.newest_time_us),
        holds: h
            .forks
            .iter()
            .map(|f| Hold {
                branch: names.get(f.branch),
                branch_id: f.branch.to_string(),
                lsn: f.lsn.0,
            })
            .collect(),
        flush_trouble: h.flush_trouble.as_ref().map(trouble),
        merge_trouble: h.merge_trouble.as_ref().map(trouble),
        unfoldable: h.unfoldable.iter().map(trouble).collect(),
        unfoldable_keys: stats.unfoldable_keys,
        unreadable: h.unreadable.iter().map(trouble).collect(),
        unreadable_pages: stats.unreadable_pages,
        frozen_layers: stats.frozen_layers,
        trim_failures: stats.trim_failures,
        wal_backup: branch.backed.as_ref().map(|b| wal_backup(b)),
    }
}
