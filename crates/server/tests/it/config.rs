//! Settings: their sources, and invalid values.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::PathBuf;
use xylem_server::config::{LogFormat, ServerArgs, load, markdown};
use xylem_server::span::Span;

fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("xylem.toml");
    std::fs::write(&path, text).unwrap();
    (dir, path)
}

#[test]
fn flags_win_over_environment_over_file_over_defaults() {
    let (_dir, path) =
        file("data_dir = '/srv/x'\nmemory = '1GiB'\nstop_grace = '7ms'\npage_threads = 3\n");
    let args = ServerArgs {
        memory: Some("2GiB".into()),
        config: Some(path),
        ..ServerArgs::default()
    };
    let env = |name: &str| match name {
        "XYLEM_MEMORY" => Some("3GiB".to_owned()),
        "XYLEM_STOP_GRACE" => Some("8ms".to_owned()),
        _ => None,
    };
    let config = load(&args, &env, None).unwrap();
    assert_eq!(config.memory.0, 2 << 30);
    assert_eq!(config.stop_grace.as_millis(), 8);
    assert_eq!(config.page_threads, 3);
    assert_eq!(config.grpc_listen.to_string(), "127.0.0.1:8080");
    assert_eq!(config.http_listen.to_string(), "127.0.0.1:8081");
    assert_eq!(config.log_format, LogFormat::Text);
    assert_eq!(config.object_store, "file:///srv/x/store");
    assert_eq!(config.compute_redo_log_size.0, 4 << 30);
    assert_eq!(config.history.to_string(), "7days");
    assert_eq!(config.lease_timeout.as_secs(), 600);
}

#[test]
fn what_cannot_be_used_is_refused_with_its_place() {
    let cases = [
        (
            "datadir = 'x'",
            "unknown key \"datadir\"; did you mean \"data_dir\"?",
        ),
        ("grpc_port = 1", "did you mean \"grpc_listen\"?"),
        ("memory = 'lots'", "key memory: \"lots\""),
        ("memory = '1KiB'", "is not between"),
        ("memory = 1.5", "found a float"),
        ("grpc_listen = 'localhost'", "key grpc_listen"),
        ("log_format = 'xml'", "use text or json"),
        (
            "object_store = 'ftp://bucket'",
            "use the URL of a directory",
        ),
        ("compute_redo_log_size = 5000001", "multiple of 4096"),
        ("log_level = 'a=b=c'", "key log_level"),
        ("history = '7'", "90s, 15m, 36h or 7d"),
        ("history = 'a week'", "key history"),
        ("lease_timeout = '1ms'", "is not between"),
        ("x = = 1", "is not TOML"),
    ];
    for (line, message) in cases {
        let (_dir, path) = file(line);
        let args = ServerArgs {
            data_dir: Some("/srv/x".into()),
            ..ServerArgs::default()
        };
        let error = load(&args, &|_| None, Some(&path)).unwrap_err().to_string();
        assert!(error.contains(message), "{line}: {error}");
        assert!(error.contains("xylem.toml"), "{line}: {error}");
    }
    let error = load(&ServerArgs::default(), &|_| None, None)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("data_dir is not set") && error.contains("--data-dir"),
        "{error}"
    );
    let env = |name: &str| (name == "XYLEM_PAGE_THREADS").then(|| "0".to_owned());
    let args = ServerArgs {
        data_dir: Some("x".into()),
        ..ServerArgs::default()
    };
    let error = load(&args, &env, None).unwrap_err().to_string();
    assert!(
        error.contains("environment variable XYLEM_PAGE_THREADS"),
        "{error}"
    );
    let error = load(
        &args,
        &|_| None,
        Some(std::path::Path::new("/nowhere/x.toml")),
    )
    .unwrap_err()
    .to_string();
    assert!(error.contains("/nowhere/x.toml"), "{error}");
}

#[test]
fn spans_of_time_have_their_units() {
    for (text, millis, shown) in [
        ("90s", 90_000, "1m 30s"),
        ("120 s", 120_000, "2m"),
        ("15M", 900_000, "15m"),
        ("36h", 129_600_000, "1day 12h"),
        ("7d", 604_800_000, "7days"),
        ("1h 30m", 5_400_000, "1h 30m"),
        ("1500ms", 1_500, "1s 500ms"),
        ("0s", 0, "0s"),
    ] {
        let span: Span = text.parse().unwrap();
        assert_eq!(span.0.as_millis(), millis, "{text}");
        assert_eq!(span.to_string(), shown);
    }
    for text in ["", "7", "d", "-1d", "99999999999999999d", "1 week ago"] {
        assert!(text.parse::<Span>().is_err(), "{text:?}");
    }
}

/// The documents take the table of settings from the code:
/// `XYLEM_UPDATE_DOCS=1 cargo test -p xylem-server the_table_of_settings`.
#[test]
fn the_table_of_settings_is_the_codes() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/server.md");
    let book = std::fs::read_to_string(path).unwrap();
    let (before, rest) = book.split_once("<!-- settings: ").unwrap();
    let (origin, rest) = rest.split_once("-->\n").unwrap();
    let (table, after) = rest.split_once("<!-- end of settings -->").unwrap();
    if std::env::var_os("XYLEM_UPDATE_DOCS").is_some() {
        let new = markdown();
        let text =
            format!("{before}<!-- settings: {origin}-->\n\n{new}\n<!-- end of settings -->{after}");
        std::fs::write(path, text).unwrap();
    } else {
        assert_eq!(table.trim(), markdown().trim());
    }
}
