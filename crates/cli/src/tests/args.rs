//! The command line's forms, and what is refused.

use crate::args::branch::BranchCommand;
use crate::args::compute::ComputeCommand;
use crate::args::inspect::InspectCommand;
use crate::args::parse::{PagePlace, place};
use crate::args::{Cli, Command};
use crate::moment::When;
use clap::{CommandFactory, Parser};
use xylem_types::PageId;

fn parse(words: &[&str]) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(std::iter::once("xylem").chain(words.iter().copied()))
}

#[test]
fn forms_are_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn up_takes_what_it_says() {
    let cli = parse(&[
        "up",
        "--detach",
        "--dir",
        "/d",
        "--mysql-port",
        "3307",
        "--object-store",
        "file:///s",
        "--bind",
        "0.0.0.0",
        "--gateway-port",
        "3310",
        "--gateway-bind",
        "10.0.0.1",
        "--gateway",
        "off",
        "--json",
        "--",
        "--max-connections=10",
        "--skip-grant",
    ])
    .unwrap();
    assert!(cli.global.json);
    assert_eq!(cli.global.dir.as_deref(), Some(std::path::Path::new("/d")));
    let Command::Up(up) = cli.command else {
        panic!("not up")
    };
    assert!(up.detach);
    assert_eq!(up.ports.mysql_port, Some(3307));
    assert_eq!(up.ports.gateway_port, Some(3310));
    assert_eq!(up.settings.compute.bind, "0.0.0.0".parse().ok());
    assert!(!up.settings.has_gateway());
    assert_eq!(up.settings.gateway_bind().to_string(), "10.0.0.1");
    let args = up.settings.compute.mariadbd_args;
    assert_eq!(args, ["--max-connections=10", "--skip-grant"]);
}

#[test]
fn sql_defaults_to_main() {
    let Command::Sql(sql) = parse(&["sql", "-e", "select 1"]).unwrap().command else {
        panic!()
    };
    assert_eq!(
        (sql.compute.to_string().as_str(), sql.execute.as_deref()),
        ("main", Some("select 1"))
    );
    let Command::Sql(sql) = parse(&["sql", "dev", "--", "-N", "db"]).unwrap().command else {
        panic!()
    };
    assert_eq!(sql.compute.to_string(), "dev");
    assert_eq!(sql.client_args, ["-N", "db"]);
}

#[test]
fn compute_start_takes_its_options() {
    let cli = parse(&[
        "compute",
        "start",
        "main",
        "--port",
        "4000",
        "--read-only",
        "--at",
        "123456",
    ])
    .unwrap();
    let Command::Compute(ComputeCommand::Start(start)) = cli.command else {
        panic!()
    };
    assert_eq!(
        (start.port, start.read_only, start.at),
        (Some(4000), true, Some(When::Lsn(123_456)))
    );
    for name in ["dev", "main@12", "feature/login", "feature/login@3"] {
        let cli = parse(&["compute", "stop", name]).unwrap();
        let Command::Compute(ComputeCommand::Stop(stop)) = cli.command else {
            panic!()
        };
        assert_eq!(stop.compute.to_string(), name);
        assert_eq!(stop.compute.is_reader(), name.contains('@'));
    }
}

#[test]
fn a_branch_is_set_to_something() {
    parse(&["branch", "set", "main"]).unwrap_err();
    for option in [
        ["--suspend-after", "5m"],
        ["--pool-size", "100"],
        ["--pool-size", "off"],
        ["--moments", "on"],
    ] {
        parse(&[&["branch", "set", "main"], &option[..]].concat()).unwrap();
    }
    for option in [
        ["--suspend-after", "soon"],
        ["--pool-size", "0"],
        ["--moments", "yes"],
    ] {
        parse(&[&["branch", "set", "main"], &option[..]].concat()).unwrap_err();
    }
}

#[test]
fn branches_take_their_options() {
    let branch = |words: &[&str]| match parse(words).unwrap().command {
        Command::Branch(command) => command,
        _ => panic!("not branch"),
    };
    let BranchCommand::Create(create) = branch(&["branch", "create", "dev"]) else {
        panic!()
    };
    assert_eq!((create.from.as_str(), create.at), ("main", None));
    let words = ["branch", "create", "x", "--from", "dev", "--at", "10:30"];
    let BranchCommand::Create(create) = branch(&words) else {
        panic!()
    };
    assert_eq!(create.from.as_str(), "dev");
    assert!(matches!(create.at, Some(When::Today(_))));
    let words = [
        "branch",
        "restore",
        "main",
        "--at",
        "77",
        "--keep-as",
        "bad-day",
    ];
    let BranchCommand::Restore(restore) = branch(&words) else {
        panic!()
    };
    assert_eq!(restore.at, Some(When::Lsn(77)));
    assert_eq!(restore.keep_as.unwrap().as_str(), "bad-day");
    let BranchCommand::Rename(rename) = branch(&["branch", "rename", "a", "b"]) else {
        panic!()
    };
    assert_eq!((rename.old.as_str(), rename.new.as_str()), ("a", "b"));
    let BranchCommand::Show(show) = branch(&["branch", "show"]) else {
        panic!()
    };
    assert!(show.branch.is_none());
}

#[test]
fn a_moment_that_is_none_shows_the_forms() {
    for words in [
        ["branch", "create", "x", "--at", "soon"].as_slice(),
        &["branch", "restore", "x", "--at", "soon"],
        &["compute", "start", "x", "--read-only", "--at", "soon"],
    ] {
        let error = parse(words).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        let text = error.to_string();
        assert!(
            text.contains("5 minutes ago") && text.contains("2026-11-22T14:05:00Z"),
            "{text}"
        );
    }
}

#[test]
fn nonsense_is_wrong_usage() {
    let cases: [&[&str]; 22] = [
        &[],
        &["fly"],
        &["up", "--mysql-port", "0"],
        &["up", "--mysql-port", "70000"],
        &["up", "--bind", "nowhere"],
        &["up", "--gateway", "perhaps"],
        &["up", "--gateway-port", "0"],
        &["compute", "start"],
        &["compute", "start", "-x"],
        &["compute", "start", "../main"],
        &["sql", "a//b"],
        &["branch", "show", ""],
        &["branch", "create"],
        &["branch", "create", "main@1"],
        &["branch", "rename", "a"],
        &["branch", "rename", "a", "b@1"],
        &["branch", "restore", "main"],
        &["branch", "rm"],
        &["compute", "start", "main", "--at", "77"],
        &["compute", "start", "main@01"],
        &["compute", "stop", "main@"],
        &["compute", "stop", "@1"],
    ];
    for words in cases {
        let error = parse(words).expect_err(&format!("{words:?} was taken"));
        assert_eq!(error.exit_code(), 2, "{words:?}");
    }
}

#[test]
fn a_page_size_that_cannot_work_is_refused_with_its_reason() {
    for (text, bytes) in [("16k", 16_384), ("32K", 32_768), ("65536", 65_536)] {
        let Command::Up(up) = parse(&["up", "--page-size", text]).unwrap().command else {
            panic!("not up")
        };
        assert_eq!(up.settings.format.page_size, Some(bytes));
    }
    for (text, why) in [
        ("4k", "keys too long"),
        ("8192", "keys too long"),
        ("1m", "16k, 32k"),
    ] {
        let error = parse(&["up", "--page-size", text]).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
}

#[test]
fn settings_can_be_forgotten() {
    let words = ["up", "--unset", "memory,mariadbd-args", "--unset", "bind"];
    let Command::Up(up) = parse(&words).unwrap().command else {
        panic!("not up")
    };
    assert_eq!(up.unset, ["memory", "mariadbd-args", "bind"]);
    // What cannot be changed later cannot be forgotten either.
    for setting in ["object-store", "wal-store", "page-size", ""] {
        let error = parse(&["up", "--unset", setting]).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{setting}");
    }
}

#[test]
fn only_a_yes_is_a_yes() {
    use crate::cmd::branch::is_yes;
    for answer in ["y", "Y\n", " yes \n", "YES"] {
        assert!(is_yes(answer), "{answer}");
    }
    for answer in ["", "\n", "n", "no", "yea", "ja", "dev", "y y"] {
        assert!(!is_yes(answer), "{answer}");
    }
}

#[test]
fn pages_as_people_write_them() {
    assert_eq!(place("5:3"), Ok(PagePlace::Id(PageId::new(5, 3))));
    let named = |name: &str, page| Ok(PagePlace::Named(name.to_owned(), page));
    assert_eq!(place("db/table:0"), named("db/table", 0));
    assert_eq!(place("db/t#P#p0:12"), named("db/t#P#p0", 12));
    assert_eq!(place("undo001:7"), named("undo001", 7));
    for wrong in ["", "5", ":3", "5:", "5:-1", "db/table", "5:4294967296"] {
        assert!(place(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn wals_are_inspected_by_that_name() {
    let words = ["inspect", "wal", "/s/server/wal/main", "--mtrs"];
    let Command::Inspect(InspectCommand::Wal(args)) = parse(&words).unwrap().command else {
        panic!("not inspect wal")
    };
    assert!(args.mtrs && args.dir == std::path::Path::new("/s/server/wal/main"));
}
