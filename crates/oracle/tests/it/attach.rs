//! Stock InnoDB with a redo log, and with pages, that `xylem-redo` made.
//!
//! Needs a stock MariaDB; `cargo xtask test` provides one.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use xylem_oracle::files::tablespaces;
use xylem_oracle::log::Log;
use xylem_oracle::rebuild::{write_log, write_pages};
use xylem_oracle::replay::Replay;
use xylem_oracle::server::{Install, Server};
use xylem_oracle::workload;
use xylem_redo::{CHECKPOINT_MTR_LEN, LogGeometry};
use xylem_types::Lsn;

fn status(server: &Server, name: &str) -> u64 {
    let sql = format!(
        "SELECT variable_value FROM information_schema.global_status WHERE variable_name = '{name}'"
    );
    server.query(&sql).unwrap().trim().parse().unwrap()
}

fn lsn(server: &Server) -> u64 {
    status(server, "Innodb_lsn_current")
}

fn log_path(data: &Path) -> std::path::PathBuf {
    data.join("ib_logfile0")
}

#[test]
fn starts_as_if_cleanly_shut_down() {
    let install = Install::from_env().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let options = [
        "--innodb-log-file-size=4M",
        "--innodb-flush-log-at-trx-commit=2",
    ]
    .map(str::to_owned);
    install.create_database(&data, &options).unwrap();
    let server = install.start(&data, dir.path(), &options).unwrap();
    server
        .query("CREATE DATABASE d; CREATE TABLE d.t (i INT PRIMARY KEY, v VARCHAR(500))")
        .unwrap();
    server.stop().unwrap();

    // At the end of the old redo log, at an odd LSN after it, and far away.
    for (round, gap) in [0, 1_234_567, 5 << 40].into_iter().enumerate() {
        // LSNs only grow, because pages must not be from the future.
        let start = Lsn(Log::read(&log_path(&data)).unwrap().end().0 + gap);
        write_log(&log_path(&data), start, 4 << 20).unwrap();
        let server = install.start(&data, dir.path(), &options).unwrap();
        let now = lsn(&server);
        let slack = now - (start.0 + CHECKPOINT_MTR_LEN as u64);
        assert!(slack < 10_000, "starts at {start}, has {now}");
        assert!(
            !server.log_tail().contains("crash recovery"),
            "{}",
            server.log_tail()
        );
        // Goes around the ring more than once.
        let base = round * 100_000;
        for n in 0..6 {
            server
                .query(&format!(
                    "INSERT INTO d.t SELECT {base} + {n} * 4000 + seq, REPEAT('x', 400) FROM d.seq_1_to_4000"
                ))
                .unwrap();
        }
        let rows = server.query("SELECT COUNT(*) FROM d.t").unwrap();
        assert_eq!(rows.trim(), ((round + 1) * 24_000).to_string());
        if round == 0 {
            // After a crash, recovery must be able to read the redo log.
            server.kill().unwrap();
            let log = Log::read(&log_path(&data)).unwrap();
            assert_eq!(log.header.first_lsn, start);
            let ring = LogGeometry::new(start, 4 << 20).unwrap();
            assert!(
                log.end().0 > start.0 + ring.capacity(),
                "the ring has turned"
            );
            let server = install.start(&data, dir.path(), &options).unwrap();
            assert!(lsn(&server) >= log.end().0);
            assert_eq!(
                server.query("SELECT COUNT(*) FROM d.t").unwrap().trim(),
                "24000"
            );
            server.stop().unwrap();
        } else {
            server.stop().unwrap();
        }
    }
}

/// InnoDB starts without recovery from the pages of a crashed server, made only
/// from its redo, and a new redo log that begins where the redo ended. It rolls
/// back uncommitted transactions, and every page is valid.
#[test]
fn runs_on_replayed_pages() {
    let install = Install::from_env().unwrap();
    for name in ["oltp", "rows", "rows-crc32", "mixed-4k"] {
        let workloads = workload::all(3, 1);
        let workload = workloads.iter().find(|w| w.name == name).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        let options = workload.options();
        install.create_database(&data, &options).unwrap();
        let mut server = install.start(&data, dir.path(), &options).unwrap();
        for phase in &workload.phases {
            server.run(&phase.scripts, phase.force).unwrap();
        }
        server.kill().unwrap();

        let log = Log::read(&log_path(&data)).unwrap();
        let replay = Replay::from_nothing(&log).unwrap();
        let files = tablespaces(&data).unwrap();
        write_pages(&data, &files, &replay).unwrap();
        let size = std::fs::metadata(log_path(&data)).unwrap().len();
        write_log(&log_path(&data), log.end(), size).unwrap();

        let server = install.start(&data, dir.path(), &options).unwrap();
        let tables = server
            .query(
                "SELECT CONCAT('`', table_schema, '`.`', table_name, '`') FROM information_schema.tables \
                 WHERE engine = 'InnoDB' AND table_schema IN ('oltp', 'rws')",
            )
            .unwrap();
        let list = tables.lines().collect::<Vec<_>>();
        assert!(list.len() > 2, "{tables}");
        // Until purge is done, CHECK TABLE warns about records that purge will
        // remove, also with InnoDB's own recovered files.
        for _ in 0..300 {
            if status(&server, "Innodb_history_list_length") == 0 {
                break;
            }
            server.query("DO SLEEP(0.1)").unwrap();
        }
        let check = server
            .query(&format!("CHECK TABLE {} EXTENDED", list.join(", ")))
            .unwrap();
        let mut ok = 0;
        for line in check.lines() {
            // A warning means a delete-marked record that a race between rollback
            // and purge left permanently (MDEV-29823). It existed before the crash.
            let fine = line.ends_with("\tstatus\tOK");
            assert!(
                fine || line.contains("\tWarning\t"),
                "{name}: {line}\n{}",
                server.log_tail()
            );
            ok += usize::from(fine);
        }
        assert_eq!(ok, list.len(), "{check}");
        let log_text = std::fs::read_to_string(dir.path().join("server.log")).unwrap();
        assert!(!log_text.contains("crash recovery"), "{log_text}");
        server.stop().unwrap();
    }
}
