//! The documents that scripts rely on.

use super::kit::me;
use crate::compute::name::ComputeName;
use crate::compute::record::{ComputeRecord, Phase};
use crate::process::Process;
use crate::report::branch::{BranchReport, reports};
use crate::report::change::Shown;
use crate::report::finding::FindingRow;
use crate::report::seen::Seen;
use crate::report::{ComputeReport, RoleReport, ServerReport, StatusReport};
use crate::role::{Role, RoleRecord};
use crate::state::{ServerRecord, StateDir};
use serde_json::{Value, json};
use xylem_proto::control::{Branch, StatusResponse};
use xylem_proto::inspect::{BranchHealth, Trouble};
use xylem_types::BranchName;

pub(super) fn record(process: Process, phase: Phase) -> ComputeRecord {
    ComputeRecord {
        branch: "main".to_owned(),
        branch_id: "00".to_owned(),
        process,
        phase,
        bind: "127.0.0.1".parse().unwrap(),
        host: "127.0.0.1".to_owned(),
        port: 3306,
        socket: "/s/mysql.sock".into(),
        user: "root".to_owned(),
        read_only: false,
        at_lsn: None,
        moment_of: None,
        epoch: 2,
        start_lsn: 12288,
        wake_at: None,
        globals: Vec::new(),
        log_from: 0,
    }
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
        &BranchName::main().into(),
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
    assert_eq!(row["name"], "main");
}

#[test]
fn a_reader_has_its_name_and_its_lsn() {
    let state = StateDir::find(Some(std::path::Path::new("/s"))).unwrap();
    let record = ComputeRecord {
        read_only: true,
        at_lsn: Some(77),
        moment_of: None,
        ..record(me(), Phase::Running)
    };
    let name = ComputeName::parse("main@2").unwrap();
    let report = ComputeReport::new(&state, &name, &record, &[branch()]);
    let text = crate::cmd::status::computes(&[report]);
    assert!(
        text.contains("main@2") && text.contains("77 read-only"),
        "{text}"
    );
    let report = ComputeReport::new(&state, &name, &record, &[]);
    let row = serde_json::to_value(report).unwrap();
    assert_eq!(
        (&row["name"], &row["branch"]),
        (&json!("main@2"), &json!("main"))
    );
    assert_eq!((&row["read_only"], &row["lsn"]), (&json!(true), &json!(77)));
    assert_eq!(row["dir"], "/s/computes/main@2");
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
    assert_eq!(row["parent"], Value::Null);
    assert_eq!(row["branch_point_lsn"], 0);
    assert_eq!(row["last_lsn"], 100);
    assert_eq!(row["created_at"], "2026-01-01T00:00:00Z");
    assert_eq!(row["lag_bytes"], 30);
    for unknown in ["oldest_lsn", "oldest_time", "newest_time", "history_from"] {
        assert_eq!(row[unknown], Value::Null, "{unknown}");
    }
    assert_eq!(row["child_branches"], json!([]));
    assert_eq!(row["lease"], false);
}

fn named(name: &str, parent: &str, branch_point_lsn: u64) -> BranchReport {
    BranchReport::from(Branch {
        name: name.to_owned(),
        parent: parent.to_owned(),
        branch_point_lsn,
        last_lsn: 5000,
        wal_bytes: 1024,
        layer_bytes: 2048,
        oldest_lsn: 12,
        oldest_time: "2026-01-01T00:00:00.5Z".to_owned(),
        ..Branch::default()
    })
}

#[test]
fn the_tree_of_branches_is_drawn() {
    let all = [
        named("dev", "main", 300),
        named("main", "", 0),
        named("test", "main", 200),
        named("try", "dev", 400),
    ];
    let text = crate::cmd::branch::tree(&all, None);
    let names: Vec<&str> = text
        .lines()
        .map(|line| line.split("  ").next().unwrap_or_default())
        .collect();
    assert_eq!(
        names,
        ["BRANCH", "main", "├─ test", "└─ dev", "",],
        "{text}"
    );
    assert!(text.contains("   └─ try  400"), "{text}");
    assert!(text.contains("3.0 KiB"), "{text}");
    let part = crate::cmd::branch::tree(&all, Some("dev"));
    assert!(!part.contains("main") && part.contains("└─ try"), "{part}");
}

#[test]
fn a_branch_reads_well() {
    let text = crate::cmd::branch::text(&named("dev", "main", 300));
    for part in [
        "dev",
        "main at LSN 300",
        "LSN 12, 2026-01-01T00:00:00.5Z",
        "own       3.0 KiB (WAL 1.0 KiB, layers 2.0 KiB)",
    ] {
        assert!(text.contains(part), "no {part} in\n{text}");
    }
    let table = crate::cmd::status::branches(&[named("dev", "main", 300)]);
    assert!(
        table.contains("main at 300") && table.contains("2026-01-01T00:00:00Z"),
        "{table}"
    );
}

#[test]
fn a_project_from_a_template_has_no_history_before_its_beginning() {
    let branch = |name: &str, parent: &str, created_at: &str, oldest_time: &str| Branch {
        name: name.to_owned(),
        parent: parent.to_owned(),
        created_at: created_at.to_owned(),
        oldest_lsn: 12,
        oldest_time: oldest_time.to_owned(),
        ..Branch::default()
    };
    let template = "2026-01-01T00:00:00Z";
    let all = reports(vec![
        branch("dev", "main", "2026-03-03T00:00:00Z", template),
        branch(
            "late",
            "dev",
            "2026-03-04T00:00:00Z",
            "2026-02-05T00:00:00Z",
        ),
        branch("main", "", "2026-02-02T00:00:00.5Z", template),
        branch("empty", "", "2026-02-02T00:00:00Z", ""),
    ]);
    let from: Vec<Option<&str>> = all.iter().map(|b| b.history_from.as_deref()).collect();
    let began = Some("2026-02-02T00:00:00.5Z");
    assert_eq!(from, [began, Some("2026-02-05T00:00:00Z"), began, None]);
    let table = crate::cmd::status::branches(&all);
    assert!(table.contains("HISTORY FROM") && table.contains("2026-02-02T00:00:00Z"));
    assert!(!table.contains(template), "{table}");
}

#[test]
fn a_branch_is_shown_with_its_troubles() {
    let sound = Shown::new(branch(), None);
    assert!(
        !crate::cmd::branch::shown_text(&sound).contains("trouble"),
        "{}",
        crate::cmd::branch::shown_text(&sound)
    );
    let trouble = Trouble {
        time: "2026-11-22T14:05:00Z".to_owned(),
        message: "no space".to_owned(),
    };
    let health = BranchHealth {
        flush_trouble: Some(trouble),
        ..BranchHealth::default()
    };
    let shown = Shown::new(branch(), Some(health));
    let says = "trouble   flushes fail: no space (at 2026-11-22T14:05:00Z)";
    assert!(
        crate::cmd::branch::shown_text(&shown).contains(says),
        "{}",
        crate::cmd::branch::shown_text(&shown)
    );
    let row = serde_json::to_value(shown).unwrap();
    assert_eq!(row["flush_trouble"], "no space (at 2026-11-22T14:05:00Z)");
    assert_eq!(row["merge_trouble"], Value::Null);
    assert_eq!(row["name"], "main");
}

fn server(process: Process, stopped: bool) -> ServerRecord {
    ServerRecord {
        process,
        grpc: "127.0.0.1:8080".to_owned(),
        http: "127.0.0.1:8081".to_owned(),
        socket: None,
        authority: None,
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

fn gateway(process: Process, stopped: bool) -> RoleRecord {
    RoleRecord {
        process,
        listen: "0.0.0.0:3306".parse().unwrap(),
        stopped,
        log_from: 0,
    }
}

fn gateway_report(record: Option<&RoleRecord>) -> RoleReport {
    let state = StateDir::find(Some(std::path::Path::new("/s"))).unwrap();
    RoleReport::new(&state, Role::Gateway, record)
}

#[test]
fn a_gateway_is_what_its_process_and_its_record_say() {
    let report =
        |record: Option<&RoleRecord>| serde_json::to_value(gateway_report(record)).unwrap();
    let row = report(Some(&gateway(me(), false)));
    assert_eq!(row["state"], "running");
    assert_eq!(row["address"], "0.0.0.0:3306");
    assert_eq!(row["host"], "127.0.0.1");
    assert_eq!(row["port"], 3306);
    assert_eq!(row["pid"], std::process::id());
    assert_eq!(row["log"], "/s/gateway.log");
    let row = report(Some(&gateway(GONE, false)));
    assert_eq!(
        (&row["state"], &row["pid"]),
        (&json!("crashed"), &Value::Null)
    );
    assert_eq!(report(Some(&gateway(GONE, true)))["state"], "stopped");
    let never = report(None);
    assert_eq!(never["state"], "stopped");
    assert_eq!(never["address"], Value::Null);
}

#[test]
fn the_status_has_its_fields() {
    let report = StatusReport {
        dir: "/s".into(),
        server: ServerReport::new(&Seen {
            record: Some(server(me(), false)),
            ..Seen::default()
        }),
        gateway: gateway_report(Some(&gateway(me(), false))),
        api: RoleReport::of(&StateDir::find(None).unwrap(), Role::Api),
        branches: vec![branch()],
        computes: Vec::new(),
        object_store: Some("file:///s/server/store".to_owned()),
        damage: Vec::new(),
    };
    let text = crate::cmd::status::text(&report);
    assert!(text.contains("main") && text.contains("8080"), "{text}");
    let line = format!(
        "gateway   running, pid {}, 0.0.0.0:3306\n",
        std::process::id()
    );
    assert!(text.contains(&line), "{text}");
    let document = serde_json::to_value(report).unwrap();
    assert_eq!(document["server"]["grpc"], "127.0.0.1:8080");
    assert_eq!(document["server"]["http"], "127.0.0.1:8081");
    assert_eq!(document["server"]["pid"], std::process::id());
    assert_eq!(document["server"]["state"], "unreachable");
    assert_eq!(document["gateway"]["state"], "running");
    assert_eq!(document["branches"][0]["name"], "main");
    assert_eq!(document["computes"], json!([]));
    assert_eq!(document["object_store"], "file:///s/server/store");
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
        gateway: gateway_report(None),
        api: RoleReport::of(&StateDir::find(None).unwrap(), Role::Api),
        branches: Vec::new(),
        computes: Vec::new(),
        object_store: None,
        damage: vec![FindingRow::from(&finding)],
    };
    let text = crate::cmd::status::text(&report);
    assert!(text.contains("DAMAGE") && text.contains("doctor"), "{text}");
    let document = serde_json::to_value(report).unwrap();
    assert_eq!(document["damage"][0]["file"], "x.layer");
    assert_eq!(document["damage"][0]["kind"], "damaged");
}
