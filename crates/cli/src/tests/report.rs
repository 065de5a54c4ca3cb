//! The documents that scripts rely on.

use crate::compute::record::{ComputeRecord, Phase};
use crate::proc::Process;
use crate::report::{BranchReport, ComputeReport, Seen, ServerReport, StatusReport};
use crate::state::{ServerRecord, StateDir};
use serde_json::{Value, json};
use xylem_proto::control::{Branch, StatusResponse};
use xylem_types::BranchName;

fn record(process: Process, phase: Phase) -> ComputeRecord {
    ComputeRecord {
        branch: "main".to_owned(),
        process,
        phase,
        bind: "127.0.0.1".parse().unwrap(),
        host: "127.0.0.1".to_owned(),
        port: 3306,
        socket: "/s/mysql.sock".into(),
        read_only: false,
        epoch: 2,
        start_lsn: 12288,
        log_from: 0,
    }
}

fn me() -> Process {
    Process::find(std::process::id()).unwrap()
}

const GONE: Process = Process {
    pid: 1,
    start_time: u64::MAX,
};

fn branch() -> BranchReport {
    BranchReport::from(Branch {
        name: "main".to_owned(),
        id: "00".to_owned(),
        last_lsn: 100,
        applied_lsn: 70,
        created_at: "2026-01-01T00:00:00Z".to_owned(),
        ..Branch::default()
    })
}

fn compute(process: Process, phase: Phase) -> Value {
    let state = StateDir::find(Some(std::path::Path::new("/s"))).unwrap();
    let report = ComputeReport::new(
        &state,
        &BranchName::main(),
        &record(process, phase),
        &[branch()],
    );
    serde_json::to_value(report).unwrap()
}

#[test]
fn a_compute_has_its_fields() {
    let row = compute(me(), Phase::Running);
    assert_eq!(row["branch"], "main");
    assert_eq!(row["state"], "running");
    assert_eq!(row["host"], "127.0.0.1");
    assert_eq!(row["port"], 3306);
    assert_eq!(row["socket"], "/s/mysql.sock");
    assert_eq!(row["user"], "root");
    assert_eq!(row["password_file"], "/s/root.password");
    assert_eq!(row["dir"], "/s/computes/main");
    assert_eq!(row["pid"], std::process::id());
    assert_eq!(row["read_only"], false);
    assert_eq!(row["lsn"], 100);
}

#[test]
fn a_compute_is_what_its_process_and_phase_say() {
    assert_eq!(compute(me(), Phase::Starting)["state"], "starting");
    assert_eq!(compute(GONE, Phase::Stopped)["state"], "stopped");
    assert_eq!(compute(GONE, Phase::Running)["state"], "crashed");
    assert_eq!(compute(GONE, Phase::Starting)["state"], "crashed");
    assert_eq!(compute(GONE, Phase::Running)["pid"], Value::Null);
}

#[test]
fn a_record_comes_back_as_it_was() {
    let record = record(GONE, Phase::Stopped);
    let text = serde_json::to_string(&record).unwrap();
    assert_eq!(
        serde_json::from_str::<ComputeRecord>(&text).unwrap(),
        record
    );
}

#[test]
fn a_branch_has_its_fields() {
    let row = serde_json::to_value(branch()).unwrap();
    assert_eq!(row["name"], "main");
    assert_eq!(row["id"], "00");
    assert_eq!(row["ancestor"], Value::Null);
    assert_eq!(row["ancestor_lsn"], 0);
    assert_eq!(row["last_lsn"], 100);
    assert_eq!(row["created_at"], "2026-01-01T00:00:00Z");
    assert_eq!(row["lag_bytes"], 30);
}

fn server(process: Process, stopped: bool) -> ServerRecord {
    ServerRecord {
        process,
        grpc: "127.0.0.1:8080".to_owned(),
        http: "127.0.0.1:8081".to_owned(),
        stopped,
        log_from: 0,
    }
}

#[test]
fn a_server_is_what_can_be_seen_of_it() {
    let state = |record, status| {
        ServerReport::new(&Seen {
            record,
            status,
            ..Seen::default()
        })
        .state
    };
    let ready = StatusResponse {
        state: "ready".to_owned(),
        ..StatusResponse::default()
    };
    assert_eq!(state(None, None), "stopped");
    assert_eq!(state(Some(server(GONE, true)), None), "stopped");
    assert_eq!(state(Some(server(GONE, false)), None), "crashed");
    assert_eq!(state(Some(server(me(), false)), None), "unreachable");
    assert_eq!(state(Some(server(me(), false)), Some(ready)), "ready");
}

#[test]
fn the_status_has_its_fields() {
    let report = StatusReport {
        dir: "/s".into(),
        server: ServerReport::new(&Seen {
            record: Some(server(me(), false)),
            ..Seen::default()
        }),
        branches: vec![branch()],
        computes: Vec::new(),
        object_store: Some("file:///s/server/layers".to_owned()),
        damage: Vec::new(),
    };
    let text = crate::cmd::status::text(&report);
    assert!(text.contains("main") && text.contains("8080"), "{text}");
    let document = serde_json::to_value(report).unwrap();
    assert_eq!(document["server"]["grpc"], "127.0.0.1:8080");
    assert_eq!(document["server"]["http"], "127.0.0.1:8081");
    assert_eq!(document["server"]["pid"], std::process::id());
    assert_eq!(document["server"]["state"], "unreachable");
    assert_eq!(document["branches"][0]["name"], "main");
    assert_eq!(document["computes"], json!([]));
    assert_eq!(document["object_store"], "file:///s/server/layers");
    assert_eq!(document["damage"], json!([]));
}

#[test]
fn damage_is_told_with_the_status() {
    let finding = xylem_proto::inspect::Finding {
        branch: "main".to_owned(),
        branch_id: "00".to_owned(),
        file: "x.layer".to_owned(),
        kind: "damaged".to_owned(),
        message: "it is not what it was".to_owned(),
    };
    let report = StatusReport {
        dir: "/s".into(),
        server: ServerReport::new(&Seen::default()),
        branches: Vec::new(),
        computes: Vec::new(),
        object_store: None,
        damage: vec![crate::cmd::scrub::FindingRow::from(&finding)],
    };
    let text = crate::cmd::status::text(&report);
    assert!(text.contains("DAMAGE") && text.contains("doctor"), "{text}");
    let document = serde_json::to_value(report).unwrap();
    assert_eq!(document["damage"][0]["file"], "x.layer");
    assert_eq!(document["damage"][0]["kind"], "damaged");
}
