//! Unusual rows and pages: BLOBs, FULLTEXT, SPATIAL, ROW_FORMAT=COMPRESSED
//! and REDUNDANT, long keys.

use super::Phase;
use crate::rng::Rng;
use std::fmt::Write as _;

/// Tables that accept any of the statements. The `ROW_FORMAT=COMPRESSED` ones are
/// last.
const TABLES: [&str; 6] = ["dyn", "red", "com", "pc", "zip8", "zip4"];
/// The number of tables without `ROW_FORMAT=COMPRESSED`.
const NOT_ZIP: usize = 4;

pub(super) fn phases(seed: u64, statements: u64, compressed: bool) -> Vec<Phase> {
    let mut rng = Rng::new(seed);
    let tables = if compressed {
        &TABLES[..]
    } else {
        &TABLES[..NOT_ZIP]
    };
    vec![
        Phase { name: "create", scripts: vec![create(compressed)], force: false },
        Phase {
            name: "rows",
            scripts: (0..2).map(|_| changes(&mut rng, tables, statements)).collect(),
            force: true,
        },
        Phase {
            name: "end",
            scripts: vec![
                "USE rws; SET GLOBAL innodb_optimize_fulltext_only=1; OPTIMIZE TABLE dyn;\n\
                 BEGIN; INSERT INTO dyn (k, b) VALUES (1, REPEAT('open', 30000)); FLUSH ENGINE LOGS;"
                    .to_owned(),
            ],
            force: false,
        },
    ]
}

fn create(compressed: bool) -> String {
    let mut s = String::from("CREATE DATABASE rws; USE rws;\n");
    let formats: &[(&str, &str)] = &[
        ("dyn", "DYNAMIC"),
        ("red", "REDUNDANT"),
        ("com", "COMPACT"),
        ("pc", "DYNAMIC PAGE_COMPRESSED=1"),
        ("zip8", "COMPRESSED KEY_BLOCK_SIZE=2"),
        ("zip4", "COMPRESSED KEY_BLOCK_SIZE=4"),
    ];
    for (name, format) in formats
        .iter()
        .take(if compressed { TABLES.len() } else { NOT_ZIP })
    {
        let _ = writeln!(
            s,
            "CREATE TABLE {name} (id INT PRIMARY KEY AUTO_INCREMENT, k INT, b LONGBLOB, t TEXT, \
             l VARCHAR(150), KEY k (k), KEY l (l), FULLTEXT KEY ft (t)) ROW_FORMAT={format};"
        );
    }
    s.push_str(
        "CREATE TABLE geo (id INT PRIMARY KEY AUTO_INCREMENT, g GEOMETRY NOT NULL, x INT, SPATIAL KEY g (g)) ROW_FORMAT=DYNAMIC;\n\
         CREATE TABLE geor (id INT PRIMARY KEY AUTO_INCREMENT, g POINT NOT NULL, SPATIAL KEY g (g)) ROW_FORMAT=REDUNDANT;\n\
         CREATE TABLE wide (a VARCHAR(200), b VARCHAR(200), c VARCHAR(200), d INT, PRIMARY KEY (a, b), KEY cba (c, b, a));\n",
    );
    s
}

fn words(rng: &mut Rng, n: u64) -> String {
    (0..n)
        .map(|_| {
            let len = 3 + rng.below(7);
            rng.text(len)
        })
        .collect::<Vec<_>>()
        .join(" ")
}

/// SQL for a BLOB of none, some or many pages, compressible or not.
fn blob(rng: &mut Rng) -> String {
    match rng.below(6) {
        0 => "NULL".to_owned(),
        1..=2 => {
            let n = rng.below(600);
            format!("'{}'", rng.text(n))
        }
        3 => format!("REPEAT('{}', {})", rng.text(10), rng.below(3000)),
        4 => {
            let n = 2000 + rng.below(9000);
            format!("'{}'", rng.text(n))
        }
        _ => format!("REPEAT('{}', {})", rng.text(50), rng.below(4000)),
    }
}

fn changes(rng: &mut Rng, tables: &[&str], statements: u64) -> String {
    let mut s = String::from("USE rws;\n");
    for i in 0..statements {
        let t = *rng.pick(tables);
        let id = 1 + rng.below(statements / 3 + 1);
        let long = rng.below(150);
        let n_words = rng.below(30);
        let _ = match rng.below(20) {
            0..=4 => writeln!(
                s,
                "INSERT INTO {t} (k, b, t, l) VALUES ({}, {}, '{}', '{}');",
                rng.below(500),
                blob(rng),
                words(rng, n_words),
                rng.text(long)
            ),
            5..=6 => writeln!(s, "UPDATE {t} SET b = {} WHERE id = {id};", blob(rng)),
            7 => writeln!(
                s,
                "UPDATE {t} SET t = '{}' WHERE id = {id};",
                words(rng, n_words)
            ),
            8 => writeln!(
                s,
                "UPDATE {t} SET l = '{}', k = k + 1 WHERE id = {id};",
                rng.text(long)
            ),
            9 => writeln!(s, "DELETE FROM {t} WHERE id = {id};"),
            10 => writeln!(s, "DELETE FROM {t} WHERE k = {};", rng.below(500)),
            11..=13 => {
                let (x, y, w) = (rng.below(1000), rng.below(1000), 1 + rng.below(50));
                let (x2, y2) = (x + w, y + w);
                writeln!(
                    s,
                    "INSERT INTO geo (g, x) VALUES (ST_GeomFromText('POLYGON(({x} {y},{x2} {y},{x2} {y2},{x} {y2},{x} {y}))'), {i}), (POINT({x}, {y}), {i}), (POINT({y}, {x}), {i}); \
                     INSERT INTO geor (g) VALUES (POINT({x}, {y}));"
                )
            }
            14 => writeln!(
                s,
                "DELETE FROM geo WHERE id % 50 = {}; DELETE FROM geor WHERE id = {id};",
                rng.below(50)
            ),
            15 => writeln!(
                s,
                "UPDATE geo SET g = POINT({}, {}) WHERE id = {id};",
                rng.below(1000),
                rng.below(1000)
            ),
            16..=18 => {
                let (a, b, c) = (rng.below(120), 1 + rng.below(120), rng.below(120));
                writeln!(
                    s,
                    "INSERT IGNORE INTO wide VALUES ('{}', '{}', '{}', {i});",
                    rng.text(a),
                    rng.text(b),
                    rng.text(c)
                )
            }
            _ => writeln!(
                s,
                "BEGIN; UPDATE {t} SET b = {} WHERE k < 60; ROLLBACK;",
                blob(rng)
            ),
        };
    }
    s
}
