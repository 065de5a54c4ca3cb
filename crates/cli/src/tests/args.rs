//! The command line's forms, and what is refused.

use crate::args::{Cli, Command, ComputeCommand};
use clap::{CommandFactory, Parser};

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
    assert_eq!(up.mysql_port, Some(3307));
    assert_eq!(up.bind, Some("0.0.0.0".parse().unwrap()));
    assert_eq!(up.mariadbd_args, ["--max-connections=10", "--skip-grant"]);
}

#[test]
fn sql_defaults_to_main() {
    let Command::Sql(sql) = parse(&["sql", "-e", "select 1"]).unwrap().command else {
        panic!()
    };
    assert_eq!(
        (sql.branch.as_str(), sql.execute.as_deref()),
        ("main", Some("select 1"))
    );
    let Command::Sql(sql) = parse(&["sql", "dev", "--", "-N", "db"]).unwrap().command else {
        panic!()
    };
    assert_eq!(sql.branch.as_str(), "dev");
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
        "5 minutes ago",
    ])
    .unwrap();
    let Command::Compute(ComputeCommand::Start(start)) = cli.command else {
        panic!()
    };
    assert_eq!(
        (start.port, start.read_only, start.at.as_deref()),
        (Some(4000), true, Some("5 minutes ago"))
    );
}

#[test]
fn nonsense_is_wrong_usage() {
    let cases: [&[&str]; 10] = [
        &[],
        &["fly"],
        &["up", "--mysql-port", "0"],
        &["up", "--mysql-port", "70000"],
        &["up", "--bind", "nowhere"],
        &["compute", "start"],
        &["compute", "start", "-x"],
        &["compute", "start", "../main"],
        &["sql", "a/b"],
        &["branch", "show", ""],
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
        assert_eq!(up.page_size, Some(bytes));
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
