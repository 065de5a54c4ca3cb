//! Many short transactions on tables with secondary indexes, in every
//! uncompressed row format.

use super::Phase;
use crate::rng::Rng;
use std::fmt::Write as _;

const FORMATS: [&str; 3] = ["DYNAMIC", "REDUNDANT", "COMPACT"];
/// The largest key.
const KEYS: u64 = 6000;

pub(super) fn phases(seed: u64, clients: u64, statements: u64) -> Vec<Phase> {
    let mut rng = Rng::new(seed);
    vec![
        Phase {
            name: "load",
            scripts: vec![load(&mut rng)],
            force: false,
        },
        Phase {
            name: "transactions",
            scripts: (0..clients)
                .map(|_| transactions(&mut rng, statements))
                .collect(),
            force: true,
        },
        Phase {
            name: "unfinished",
            scripts: vec![unfinished(&mut rng)],
            force: false,
        },
    ]
}

// Writing to a String cannot fail, so the results are dropped.
macro_rules! sql {
    ($out:expr, $($arg:tt)*) => { let _ = writeln!($out, $($arg)*); };
}

fn load(rng: &mut Rng) -> String {
    let mut s = String::from("CREATE DATABASE oltp; USE oltp;\n");
    for (i, format) in FORMATS.iter().enumerate() {
        sql!(
            s,
            "CREATE TABLE t{i} (id INT PRIMARY KEY AUTO_INCREMENT, k INT NOT NULL, c VARCHAR(120), \
             v VARBINARY(400), n INT, f CHAR(20) CHARACTER SET latin1, \
             KEY k (k), KEY c (c(20)), UNIQUE KEY u (v(40), id), KEY nf (n, f)) ROW_FORMAT={format};"
        );
        for _ in 0..30 {
            let rows: Vec<String> = (0..60).map(|_| row(rng, false)).collect();
            sql!(
                s,
                "INSERT INTO t{i} (k, c, v, n, f) VALUES {};",
                rows.join(",")
            );
        }
    }
    s
}

fn row(rng: &mut Rng, with_id: bool) -> String {
    let mut r = String::from("(");
    if with_id {
        let _ = write!(r, "{},", 1 + rng.below(KEYS));
    }
    let k = rng.below(2000);
    let (c, v, f) = (rng.below(120), rng.below(400), rng.below(20));
    let _ = write!(r, "{k},");
    match rng.below(8) {
        0 => r.push_str("NULL,"),
        _ => {
            let _ = write!(r, "'{}',", rng.text(c));
        }
    }
    let _ = write!(r, "'{}',", rng.text(v));
    match rng.below(3) {
        0 => r.push_str("NULL,"),
        n => {
            let _ = write!(r, "{},", n * k);
        }
    }
    let _ = write!(r, "'{}')", rng.text(f));
    r
}

fn statement(rng: &mut Rng) -> String {
    let t = rng.below(FORMATS.len() as u64);
    let id = 1 + rng.below(KEYS);
    let (len, k) = (rng.below(120), rng.below(2000));
    match rng.below(20) {
        0..=5 => format!(
            "INSERT INTO t{t} (k, c, v, n, f) VALUES {};",
            row(rng, false)
        ),
        6..=7 => format!(
            "REPLACE INTO t{t} (id, k, c, v, n, f) VALUES {};",
            row(rng, true)
        ),
        8..=10 => format!("DELETE FROM t{t} WHERE id = {id};"),
        11 => format!(
            "DELETE FROM t{t} WHERE k BETWEEN {k} AND {} LIMIT 20;",
            k + 4
        ),
        12..=14 => format!("UPDATE t{t} SET c = '{}' WHERE id = {id};", rng.text(len)),
        15 => format!(
            "UPDATE t{t} SET v = '{}' WHERE id = {id};",
            rng.text(len * 3)
        ),
        16 => format!(
            "UPDATE t{t} SET k = k + 1 WHERE id BETWEEN {id} AND {};",
            id + 6
        ),
        17 => format!(
            "UPDATE t{t} SET n = NULL, f = '{}' WHERE k = {k};",
            rng.text(len % 20)
        ),
        18 => format!(
            "INSERT INTO t{t} (k, c, v, n, f) SELECT k, c, v, n, f FROM t{} WHERE id BETWEEN {id} AND {};",
            (t + 1) % 3,
            id + 15
        ),
        _ => format!("UPDATE t{t} SET id = id + 100000 WHERE id = {id};"),
    }
}

fn transactions(rng: &mut Rng, statements: u64) -> String {
    let mut s = String::from("USE oltp;\n");
    let mut left = statements;
    while left > 0 {
        let n = 1 + rng.below(8).min(left - 1);
        left -= n;
        s.push_str("BEGIN;\n");
        for i in 0..n {
            s.push_str(&statement(rng));
            s.push('\n');
            if i == n / 2 && rng.below(6) == 0 {
                s.push_str("SAVEPOINT a;\n");
                s.push_str(&statement(rng));
                s.push_str("\nROLLBACK TO a;\n");
            }
        }
        s.push_str(if rng.below(6) == 0 {
            "ROLLBACK;\n"
        } else {
            "COMMIT;\n"
        });
    }
    s
}

/// A transaction that the crash interrupts, then a statement that writes the redo
/// log.
fn unfinished(rng: &mut Rng) -> String {
    let mut s = String::from("USE oltp;\nBEGIN;\n");
    for _ in 0..50 {
        sql!(
            s,
            "INSERT INTO t0 (k, c, v, n, f) VALUES {};",
            row(rng, false)
        );
    }
    s.push_str("FLUSH ENGINE LOGS;\n");
    s
}
