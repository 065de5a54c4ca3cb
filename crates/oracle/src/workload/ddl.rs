//! DDL on tables with rows: create, most kinds of ALTER TABLE, rename, truncate,
//! partition, drop.

use super::Phase;
use crate::rng::Rng;
use std::fmt::Write as _;

pub(super) fn phases(seed: u64, scale: u64) -> Vec<Phase> {
    let mut rng = Rng::new(seed);
    let scripts = (0..3)
        .map(|client| script(&mut rng, client, 2 * scale))
        .collect();
    vec![
        Phase {
            name: "create",
            scripts: vec!["CREATE DATABASE ddl;".into()],
            force: false,
        },
        Phase {
            name: "ddl",
            scripts,
            force: false,
        },
        Phase {
            name: "undo",
            scripts: vec![undo()],
            force: false,
        },
        // Purge must catch up before InnoDB truncates undo tablespaces.
        Phase {
            name: "purge",
            scripts: vec!["SET GLOBAL innodb_fast_shutdown = 0; DO SLEEP(3);".into()],
            force: false,
        },
    ]
}

fn script(rng: &mut Rng, client: u64, rounds: u64) -> String {
    let mut s = String::from("USE ddl;\n");
    for round in 0..rounds {
        let t = format!("t{client}_{round}");
        let seed = rng.below(1000);
        for (suffix, format) in [("", "DYNAMIC"), ("r", "REDUNDANT"), ("c", "COMPACT")] {
            s.push_str(&table(&format!("{t}{suffix}"), format, seed));
        }
        s.push_str(&partitions(&format!("{t}p"), seed));
        let _ = writeln!(
            s,
            "CREATE TABLE {t}gone LIKE {t}; INSERT INTO {t}gone (a, b) SELECT a, b FROM {t} LIMIT 300; \
             DROP TABLE {t}gone;\n\
             CREATE DATABASE d{t}; CREATE TABLE d{t}.x LIKE {t}; INSERT INTO d{t}.x (a, b) SELECT a, b FROM {t} LIMIT 100; \
             ALTER TABLE d{t}.x RENAME TO d{t}.y;"
        );
        if round % 2 == 1 {
            let _ = writeln!(s, "DROP DATABASE d{t};");
        }
    }
    s
}

/// One table and most kinds of ALTER TABLE on it.
fn table(t: &str, format: &str, seed: u64) -> String {
    format!(
        "CREATE TABLE {t} (id INT PRIMARY KEY AUTO_INCREMENT, a INT, b VARCHAR(100), c CHAR(30)) ROW_FORMAT={format};\n\
         INSERT INTO {t} (a, b, c) SELECT seq, REPEAT(CHAR(97 + seq % 26), (seq * 7 + {seed}) % 100), seq FROM seq_1_to_1500;\n\
         ALTER TABLE {t} ADD COLUMN d INT NOT NULL DEFAULT 42, ALGORITHM=INSTANT;\n\
         UPDATE {t} SET d = a WHERE id % 3 = 0;\n\
         ALTER TABLE {t} ADD COLUMN e VARCHAR(20) DEFAULT 'x' FIRST, ALGORITHM=INSTANT;\n\
         INSERT INTO {t} (a, b, c, d, e) SELECT a, b, c, d, e FROM {t} WHERE id % 5 = 1;\n\
         ALTER TABLE {t} DROP COLUMN c, ALGORITHM=INSTANT;\n\
         DELETE FROM {t} WHERE id % 7 = 2;\n\
         CREATE INDEX ab ON {t} (a, b);\n\
         ALTER TABLE {t} ADD UNIQUE INDEX bi (b(10), id), ADD INDEX d (d), ALGORITHM=INPLACE;\n\
         UPDATE {t} SET b = CONCAT(b, 'y') WHERE id % 4 = 0 AND LENGTH(b) < 100;\n\
         ALTER TABLE {t} MODIFY b VARCHAR(300);\n\
         ALTER TABLE {t} ADD COLUMN g INT GENERATED ALWAYS AS (a + d) VIRTUAL, ADD INDEX g (g);\n\
         ALTER TABLE {t} DROP INDEX ab;\n\
         ALTER TABLE {t} FORCE, ALGORITHM=INPLACE;\n\
         RENAME TABLE {t} TO {t}_x, {t}_x TO {t};\n\
         ALTER TABLE {t} ADD COLUMN h BIGINT, ALGORITHM=COPY;\n\
         CREATE TABLE {t}_child (id INT PRIMARY KEY, p INT, FOREIGN KEY (p) REFERENCES {t} (id) ON DELETE CASCADE);\n\
         INSERT INTO {t}_child SELECT id, id FROM {t} LIMIT 200;\n\
         DELETE FROM {t} WHERE id < 100;\n\
         CREATE TABLE {t}_tr LIKE {t}; INSERT INTO {t}_tr (a, b) SELECT a, b FROM {t};\n\
         CREATE TABLE {t}_in (id INT PRIMARY KEY, a CHAR(50)) ROW_FORMAT={format}; INSERT INTO {t}_in SELECT id, LEFT(b, 50) FROM {t} LIMIT 400;\n\
         ALTER TABLE {t}_in ADD COLUMN n INT DEFAULT 3, ALGORITHM=INSTANT; UPDATE {t}_in SET n = id WHERE id % 2 = 0;\n\
         DELETE FROM {t}_in WHERE id % 3 = 0; ALTER TABLE {t}_in DROP COLUMN a, ALGORITHM=INSTANT; INSERT INTO {t}_in SELECT id + 100000, id FROM {t};\n\
         CREATE TABLE {t}_em LIKE {t}_in; ALTER TABLE {t}_em ADD COLUMN z INT, ALGORITHM=INSTANT;\n\
         TRUNCATE TABLE {t}_tr; INSERT INTO {t}_tr (a, b) SELECT a, b FROM {t} LIMIT 50;\n\
         OPTIMIZE TABLE {t}_tr;\n"
    )
}

fn partitions(t: &str, seed: u64) -> String {
    format!(
        "CREATE TABLE {t} (id INT, a VARCHAR(50), PRIMARY KEY (id)) PARTITION BY RANGE (id) \
         (PARTITION p0 VALUES LESS THAN (300), PARTITION p1 VALUES LESS THAN (600), PARTITION p2 VALUES LESS THAN MAXVALUE);\n\
         INSERT INTO {t} SELECT seq, REPEAT('p', (seq + {seed}) % 50) FROM seq_1_to_1500;\n\
         ALTER TABLE {t} REORGANIZE PARTITION p2 INTO (PARTITION p2 VALUES LESS THAN (900), PARTITION p3 VALUES LESS THAN MAXVALUE);\n\
         ALTER TABLE {t} TRUNCATE PARTITION p1;\n\
         CREATE TABLE {t}_e LIKE {t}; ALTER TABLE {t}_e REMOVE PARTITIONING;\n\
         ALTER TABLE {t} EXCHANGE PARTITION p0 WITH TABLE {t}_e;\n\
         ALTER TABLE {t} DROP PARTITION p3;\n\
         DELETE FROM {t}_e WHERE id % 2 = 0;\n"
    )
}

/// Large transactions, rolled back and committed, so that undo grows and is purged.
fn undo() -> String {
    "USE ddl;\n\
     CREATE TABLE big (id INT PRIMARY KEY AUTO_INCREMENT, v VARCHAR(500));\n\
     INSERT INTO big (v) SELECT REPEAT('u', 400) FROM seq_1_to_8000;\n\
     BEGIN; UPDATE big SET v = REPEAT('w', 450); ROLLBACK;\n\
     BEGIN; UPDATE big SET v = REPEAT('z', 300); UPDATE big SET v = REPEAT('q', 499); COMMIT;\n\
     BEGIN; UPDATE big SET v = REPEAT('z', 310); COMMIT;\n\
     DELETE FROM big WHERE id % 2 = 0;\n\
     BEGIN; INSERT INTO big (v) VALUES ('open'); FLUSH ENGINE LOGS;\n"
        .to_owned()
}
