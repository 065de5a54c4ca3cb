//! The doctor's verdicts on the server's answers; bytes as people read them.

use crate::doctor::{Check, Verdict, care};
use crate::inspect::hexdump;
use jiff::Timestamp;
use xylem_proto::inspect::{
    BranchHealth, DiagnoseResponse, Disk, Finding, Hold, LastScrub, LastScrubsResponse, Store,
    Trouble,
};

const NOW: &str = "2026-11-22T14:05:00Z";

fn branch() -> BranchHealth {
    BranchHealth {
        branch: "main".to_owned(),
        branch_id: "00".to_owned(),
        applied_lsn: 5000,
        durable_lsn: 5000,
        resume_lsn: 4000,
        resume_position: 300,
        wal_first_position: 200,
        wal_end_position: 900,
        layers: 3,
        layer_bytes: 1 << 20,
        runs: 2,
        oldest_lsn: 1000,
        oldest_time: "2026-11-20T00:00:00Z".to_owned(),
        horizon_lsn: 2000,
        newest_time: "2026-11-22T14:04:00Z".to_owned(),
        ..BranchHealth::default()
    }
}

fn healthy() -> DiagnoseResponse {
    DiagnoseResponse {
        now: NOW.to_owned(),
        store: Some(Store {
            url: "file:///s".to_owned(),
            probed: true,
            ..Store::default()
        }),
        disks: vec![Disk {
            what: "data".to_owned(),
            path: "/s".to_owned(),
            free_bytes: 100 << 30,
            total_bytes: 200 << 30,
        }],
        branches: vec![branch()],
        ..DiagnoseResponse::default()
    }
}

fn scrubs(findings: Vec<Finding>) -> LastScrubsResponse {
    LastScrubsResponse {
        bytes_per_second: 1 << 20,
        branches: vec![LastScrub {
            branch: "main".to_owned(),
            ended_at: NOW.to_owned(),
            layers: 3,
            bytes: 1 << 20,
            findings,
            ..LastScrub::default()
        }],
    }
}

fn checks(health: &DiagnoseResponse, scrubs: &LastScrubsResponse) -> Vec<Check> {
    let now: Timestamp = NOW.parse().unwrap();
    let mut out = Vec::new();
    care::tell(health, scrubs, now, &mut out);
    out
}

/// The one check that is not ok after `change`.
fn after(change: impl Fn(&mut DiagnoseResponse)) -> (&'static str, Verdict, String) {
    let mut health = healthy();
    change(&mut health);
    let all = checks(&health, &scrubs(Vec::new()));
    let mut bad: Vec<Check> = all
        .into_iter()
        .filter(|c| c.verdict != Verdict::Ok)
        .collect();
    assert_eq!(bad.len(), 1, "{bad:?}");
    let check = bad.remove(0);
    assert!(check.hint.is_some_and(|hint| !hint.is_empty()));
    (check.name, check.verdict, check.found)
}

fn trouble(message: &str) -> Option<Trouble> {
    Some(Trouble {
        time: NOW.to_owned(),
        message: message.to_owned(),
    })
}

#[test]
fn what_is_well_is_ok() {
    let all = checks(&healthy(), &scrubs(Vec::new()));
    assert!(all.iter().all(|c| c.verdict == Verdict::Ok), "{all:?}");
    let names: Vec<&str> = all.iter().map(|c| c.name).collect();
    assert_eq!(
        names,
        ["store", "disk", "wal", "layers", "history", "scrub"]
    );
}

#[test]
fn stores_and_disks() {
    let store = |error: &str, probe_error: &str| {
        after(|h| {
            let store = h.store.as_mut().unwrap();
            store.error = error.to_owned();
            store.probe_error = probe_error.to_owned();
        })
    };
    let (name, verdict, found) = store("gone", "");
    assert_eq!((name, verdict), ("store", Verdict::Fail));
    assert!(found.contains("gone"));
    let (name, verdict, found) = store("", "a file was replaced");
    assert_eq!((name, verdict), ("store", Verdict::Fail));
    assert!(found.contains("a file was replaced"));
    let free = |bytes: u64| after(|h| h.disks[0].free_bytes = bytes).1;
    assert_eq!(
        (free(1 << 20), free(1 << 30)),
        (Verdict::Fail, Verdict::Warn)
    );
}

#[test]
fn clocks() {
    let (name, _, found) = after(|h| h.now = "2026-11-22T14:04:40Z".to_owned());
    assert_eq!(name, "clock");
    assert!(found.contains("20 s off"), "{found}");
    // The clock was put back: times in the WAL stand still.
    let (name, verdict, found) =
        after(|h| h.branches[0].newest_time = "2026-11-22T14:06:00Z".to_owned());
    assert_eq!((name, verdict), ("clock", Verdict::Warn));
    assert!(found.contains("in 60 s"), "{found}");
}

#[test]
fn stores_and_wals_that_do_not_agree() {
    let wal = |change: fn(&mut BranchHealth)| {
        let (name, verdict, found) = after(|h| change(&mut h.branches[0]));
        assert_eq!(name, "wal");
        (verdict, found)
    };
    let (verdict, found) = wal(|b| b.wal_first_position = 400);
    assert_eq!(verdict, Verdict::Fail);
    assert!(found.contains("in neither"), "{found}");
    let (verdict, found) = wal(|b| b.wal_end_position = 250);
    assert_eq!(verdict, Verdict::Fail);
    assert!(found.contains("another WAL"), "{found}");
    assert_eq!(wal(|b| b.durable_lsn = 3000).0, Verdict::Fail);
    assert_eq!(wal(|b| b.stopped = "bad redo".to_owned()).0, Verdict::Fail);
    assert_eq!(wal(|b| b.busy = true).0, Verdict::Warn);
    assert_eq!(wal(|b| b.trim_failures = 2).0, Verdict::Warn);
}

#[test]
fn debts_of_layers() {
    let layers = |change: fn(&mut BranchHealth)| {
        let (name, verdict, found) = after(|h| change(&mut h.branches[0]));
        assert_eq!(name, "layers");
        (verdict, found)
    };
    let (verdict, found) = layers(|b| b.flush_trouble = trouble("no space"));
    assert_eq!(verdict, Verdict::Fail);
    assert!(found.contains("no space") && found.contains(NOW), "{found}");
    let (verdict, found) = layers(|b| b.merge_trouble = trouble("a bad block"));
    assert_eq!(verdict, Verdict::Fail);
    assert!(found.contains("a bad block"), "{found}");
    let (verdict, found) = layers(|b| {
        b.unfoldable_keys = 1;
        b.unfoldable = trouble("page 5:3: does not fit").into_iter().collect();
    });
    assert_eq!(verdict, Verdict::Warn);
    assert!(found.contains("page 5:3"), "{found}");
    let (verdict, found) = layers(|b| {
        b.unreadable_pages = 7;
        b.unreadable = trouble("page 5:3 at LSN 9: does not fit")
            .into_iter()
            .collect();
    });
    assert_eq!(verdict, Verdict::Fail);
    assert!(
        found.contains("7 reads") && found.contains("page 5:3"),
        "{found}"
    );
    assert_eq!(layers(|b| b.runs = 100).0, Verdict::Warn);
}

#[test]
fn what_holds_history_is_told() {
    let mut health = healthy();
    let hold = |n: u64| Hold {
        branch: format!("b{n}"),
        branch_id: n.to_string(),
        lsn: n * 100,
    };
    health.branches[0].holds = (1..30).map(hold).collect();
    let all = checks(&health, &scrubs(Vec::new()));
    let history = all.iter().find(|c| c.name == "history").unwrap();
    let found = &history.found;
    assert!(found.contains("from LSN 1000 (2026-11-20"), "{found}");
    assert!(found.contains("before LSN 2000 is removed"), "{found}");
    // Those at or after the horizon hold nothing that its age does not.
    assert!(
        found.contains("b1 (LSN 100)") && found.contains("and 14 more"),
        "{found}"
    );
}

#[test]
fn findings_of_scrubs() {
    let finding = |kind: &str| Finding {
        branch: "main".to_owned(),
        file: "x.layer".to_owned(),
        kind: kind.to_owned(),
        message: "it is so".to_owned(),
        ..Finding::default()
    };
    let verdict = |kinds: &[&str]| {
        let findings = kinds.iter().map(|k| finding(k)).collect();
        let all = checks(&healthy(), &scrubs(findings));
        all.into_iter().find(|c| c.name == "scrub").unwrap()
    };
    assert_eq!(verdict(&["orphan"]).verdict, Verdict::Ok);
    assert_eq!(verdict(&["unreadable"]).verdict, Verdict::Warn);
    let check = verdict(&["orphan", "damaged", "missing"]);
    assert_eq!(check.verdict, Verdict::Fail);
    assert!(check.found.contains("2 problems found") && check.found.contains("x.layer"));
    let never = |rate| {
        let mut scrubs = scrubs(Vec::new());
        scrubs.bytes_per_second = rate;
        scrubs.branches[0].ended_at.clear();
        let all = checks(&healthy(), &scrubs);
        all.into_iter().find(|c| c.name == "scrub").unwrap().verdict
    };
    assert_eq!((never(0), never(1)), (Verdict::Warn, Verdict::Ok));
}

#[test]
fn bytes_as_people_read_them() {
    let mut bytes = b"Xylem is wood\n".to_vec();
    bytes.resize(100, 0);
    bytes.push(0xff);
    assert_eq!(
        hexdump(&bytes),
        "00000000  58 79 6c 65 6d 20 69 73  20 77 6f 6f 64 0a 00 00  |Xylem is wood...|\n\
         00000010  00 00 00 00 00 00 00 00  00 00 00 00 00 00 00 00  |................|\n\
         *\n\
         00000060  00 00 00 00 ff                                    |.....|\n\
         00000065\n"
    );
    assert_eq!(hexdump(&[]), "00000000\n");
}
