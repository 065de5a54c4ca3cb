//! The program as people run it: exit statuses, and what goes where.

use super::kit::{text, xylem_in as xylem};

#[test]
fn help_and_version_succeed() {
    let dir = tempfile::tempdir().expect("a directory");
    for args in [
        ["--help"].as_slice(),
        &["--version"],
        &["up", "--help"],
        &["server", "--help"],
    ] {
        let out = xylem(dir.path(), args);
        assert!(out.status.success(), "{args:?}: {}", text(&out.stderr));
        assert!(!out.stdout.is_empty());
    }
    let help = text(&xylem(dir.path(), &["--help"]).stdout);
    assert!(
        !help.contains("__daemon") && !help.contains("template"),
        "{help}"
    );
}

#[test]
fn wrong_usage_is_2_and_leaves_stdout_alone() {
    let dir = tempfile::tempdir().expect("a directory");
    for args in [
        ["compute", "start", "no/../branch"].as_slice(),
        &["fly"],
        &["sql", "--json"],
        &["up", "--no-such"],
    ] {
        let out = xylem(dir.path(), args);
        assert_eq!(
            out.status.code(),
            Some(2),
            "{args:?}: {}",
            text(&out.stderr)
        );
        assert!(out.stdout.is_empty() && !out.stderr.is_empty(), "{args:?}");
    }
}

#[test]
fn failures_are_1_and_say_what_to_do() {
    let dir = tempfile::tempdir().expect("a directory");
    for args in [
        ["status", "--json"].as_slice(),
        &["down"],
        &["compute", "ls", "--json"],
        &["compute", "stop", "main"],
        &["compute", "kill", "main"],
        &["compute", "start", "main"],
        &["compute", "start", "main", "--read-only"],
        &["compute", "start", "main", "--read-only", "--at", "12288"],
        &["compute", "stop", "main@1"],
        &["branch", "ls"],
        &["branch", "show"],
        &["branch", "create", "dev"],
        &["branch", "rm", "dev"],
        &["branch", "rename", "dev", "prod"],
        &["branch", "restore", "main", "--at", "5 minutes ago"],
        &["sql", "-e", "select 1"],
        &["up", "--detach", "--json"],
    ] {
        let out = xylem(dir.path(), args);
        let said = text(&out.stderr);
        assert_eq!(out.status.code(), Some(1), "{args:?}: {said}");
        assert!(out.stdout.is_empty(), "{args:?}");
        assert!(
            said.starts_with("error: ") && said.contains("hint: "),
            "{args:?}: {said}"
        );
    }
    assert_eq!(
        std::fs::read_dir(dir.path()).expect("listed").count(),
        0,
        "something was made"
    );
}

#[test]
fn a_moment_in_the_past_is_for_readers() {
    let dir = tempfile::tempdir().expect("a directory");
    let out = xylem(dir.path(), &["compute", "start", "main", "--at", "12288"]);
    assert_eq!(out.status.code(), Some(2));
    assert!(text(&out.stderr).contains("--read-only"));
    let out = xylem(dir.path(), &["branch", "create", "x", "--at", "next week"]);
    assert_eq!(out.status.code(), Some(2));
    assert!(text(&out.stderr).contains("'5 minutes ago'"));
}

#[test]
fn the_doctor_finds_the_missing_home() {
    let dir = tempfile::tempdir().expect("a directory");
    let out = xylem(dir.path(), &["doctor", "--json"]);
    assert_eq!(out.status.code(), Some(1));
    let report: serde_json::Value = serde_json::from_slice(&out.stdout).expect("one document");
    assert_eq!(report["verdict"], "fail");
    let checks = report["checks"].as_array().expect("checks");
    let home = checks
        .iter()
        .find(|c| c["name"] == "home")
        .expect("home is checked");
    assert_eq!(home["verdict"], "fail");
    assert!(
        home["hint"]
            .as_str()
            .is_some_and(|s| s.contains("XYLEM_HOME"))
    );
    for name in ["disk", "limits", "clock", "project"] {
        assert!(
            checks.iter().any(|c| c["name"] == name),
            "{name} is not checked"
        );
    }
}

#[test]
fn a_daemon_leads_a_session_and_gets_its_environment() {
    let dir = tempfile::tempdir().expect("a directory");
    let script = "echo $WORD; cut -d' ' -f6 /proc/$$/stat; echo $$";
    let out = xylem(
        dir.path(),
        &["__daemon", "--env", "WORD=a=b", "--", "sh", "-c", script],
    );
    let said = text(&out.stdout);
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.len(), 3, "{said} {}", text(&out.stderr));
    assert_eq!(lines[0], "a=b");
    assert_eq!(lines[1], lines[2], "its session is not its own");
    let out = xylem(dir.path(), &["__daemon", "--", "/nowhere/program"]);
    assert_eq!(out.status.code(), Some(1));
    assert!(text(&out.stderr).contains("/nowhere/program"));
}

#[test]
fn a_server_needs_its_directory() {
    let dir = tempfile::tempdir().expect("a directory");
    let out = xylem(dir.path(), &["server"]);
    assert_ne!(out.status.code(), Some(0));
    assert!(
        text(&out.stderr).contains("data_dir"),
        "{}",
        text(&out.stderr)
    );
}
