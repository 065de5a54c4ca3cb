//! A compute that starts with an empty directory has everything that a database holds
//! besides rows.

use anyhow::Result;
use xylem_e2e::Project;

const SCHEMA: &str = r"
CREATE DATABASE shop CHARACTER SET utf8mb4 COLLATE utf8mb4_czech_ci;
CREATE DATABASE `odd name/é#`;
USE shop;
CREATE TABLE customer (id INT PRIMARY KEY AUTO_INCREMENT, name VARCHAR(100), note TEXT,
  FULLTEXT KEY (note), KEY (name));
CREATE TABLE orders (id BIGINT PRIMARY KEY, customer INT, total DECIMAL(10,2),
  doubled DECIMAL(10,2) AS (total * 2) STORED, half DECIMAL(10,2) AS (total / 2) VIRTUAL,
  FOREIGN KEY (customer) REFERENCES customer (id) ON DELETE CASCADE);
CREATE TABLE place (id INT PRIMARY KEY, at POINT NOT NULL, SPATIAL KEY (at));
CREATE TABLE packed (id INT PRIMARY KEY, body MEDIUMTEXT) ROW_FORMAT=COMPRESSED KEY_BLOCK_SIZE=4;
CREATE TABLE redundant (id INT PRIMARY KEY, a CHAR(10)) ROW_FORMAT=REDUNDANT;
CREATE TABLE parts (id INT, yr INT, PRIMARY KEY (id, yr))
  PARTITION BY RANGE (yr) (PARTITION p0 VALUES LESS THAN (2000), PARTITION p1 VALUES LESS THAN MAXVALUE);
CREATE TABLE versioned (id INT PRIMARY KEY, v INT) WITH SYSTEM VERSIONING;
CREATE SEQUENCE numbers START WITH 100 INCREMENT BY 10;
CREATE TABLE `odd name/é#`.`table.with ünusual` (`spalte ä` INT PRIMARY KEY);
INSERT INTO customer (name, note) VALUES ('Ada', 'the quick brown fox'), ('Bob', 'a lazy dog');
INSERT INTO orders (id, customer, total) VALUES (1, 1, 10.50), (2, 2, 7.25);
INSERT INTO place VALUES (1, POINT(1, 2)), (2, POINT(30, 40));
INSERT INTO packed SELECT seq, REPEAT(MD5(seq), 500) FROM seq_1_to_200;
INSERT INTO redundant SELECT seq, seq FROM seq_1_to_100;
INSERT INTO parts SELECT seq, 1990 + seq % 20 FROM seq_1_to_100;
INSERT INTO versioned VALUES (1, 1), (2, 2); UPDATE versioned SET v = v + 10;
INSERT INTO `odd name/é#`.`table.with ünusual` VALUES (1), (2), (3);
SELECT NEXT VALUE FOR numbers INTO @a;
CREATE VIEW spenders AS SELECT c.name, SUM(o.total) AS total FROM customer c JOIN orders o
  ON o.customer = c.id GROUP BY c.id;
CREATE TABLE audit (what VARCHAR(100));
CREATE TRIGGER watch AFTER INSERT ON orders FOR EACH ROW INSERT INTO audit VALUES (CONCAT('order ', NEW.id));
CREATE PROCEDURE add_order (i BIGINT, c INT, t DECIMAL(10,2)) INSERT INTO orders (id, customer, total) VALUES (i, c, t);
CREATE FUNCTION twice (x INT) RETURNS INT DETERMINISTIC RETURN x * 2;
CREATE EVENT nightly ON SCHEDULE EVERY 1 DAY DO DELETE FROM audit;
CREATE USER teller@localhost IDENTIFIED BY 'till';
CREATE ROLE cashier; GRANT SELECT, INSERT ON shop.* TO cashier; GRANT cashier TO teller@localhost;
ALTER TABLE orders ADD COLUMN email VARCHAR(50) DEFAULT 'none', ALGORITHM=INSTANT;
ALTER TABLE orders ADD INDEX by_email (email), ALGORITHM=INPLACE;
ALTER TABLE redundant ADD COLUMN b INT DEFAULT 7, ALGORITHM=COPY;
RENAME TABLE redundant TO renamed;
CREATE TABLE dropped (id INT PRIMARY KEY); DROP TABLE dropped;
CREATE TABLE emptied (id INT PRIMARY KEY); INSERT INTO emptied VALUES (1); TRUNCATE TABLE emptied;
";

/// Queries that must return the same before and after.
const QUESTIONS: &[&str] = &[
    "SELECT schema_name, default_collation_name FROM information_schema.schemata ORDER BY 1",
    "SELECT table_schema, table_name, table_type, engine, row_format FROM information_schema.tables \
     WHERE table_schema IN ('shop', 'odd name/é#', 'mysql', 'sys') ORDER BY 1, 2",
    "SHOW CREATE TABLE shop.customer",
    "SHOW CREATE TABLE shop.orders",
    "SHOW CREATE TABLE shop.parts",
    "SHOW CREATE TABLE shop.renamed",
    "SHOW CREATE VIEW shop.spenders",
    "SHOW CREATE TRIGGER shop.watch",
    "SHOW CREATE PROCEDURE shop.add_order",
    "SHOW CREATE EVENT shop.nightly",
    "SHOW GRANTS FOR teller@localhost",
    "SHOW GRANTS FOR cashier",
    "SELECT routine_name FROM information_schema.routines WHERE routine_schema = 'shop' ORDER BY 1",
    "SELECT parameter_name FROM information_schema.parameters WHERE specific_schema = 'shop' ORDER BY 1",
    "SELECT event_name FROM information_schema.events WHERE event_schema = 'shop'",
    "SHOW FUNCTION STATUS LIKE 'twice'",
    "SELECT * FROM shop.spenders ORDER BY 1",
    "SELECT * FROM shop.orders ORDER BY 1",
    "SELECT id FROM shop.customer WHERE MATCH (note) AGAINST ('fox')",
    "SELECT id FROM shop.place WHERE ST_Within(at, ST_GeomFromText('POLYGON((0 0,0 5,5 5,5 0,0 0))'))",
    "SELECT COUNT(*), SUM(CRC32(body)) FROM shop.packed",
    "SELECT id, v FROM shop.versioned FOR SYSTEM_TIME ALL ORDER BY 1, 2",
    "SELECT yr, COUNT(*) FROM shop.parts PARTITION (p0) GROUP BY yr",
    "SELECT * FROM `odd name/é#`.`table.with ünusual`",
    "SELECT shop.twice(21)",
    "SELECT COUNT(*) FROM shop.emptied",
];

#[test]
fn a_compute_from_nothing_has_every_object() -> Result<()> {
    let project = Project::up("64MiB")?;
    project.sql(SCHEMA)?;
    let ask = || {
        QUESTIONS
            .iter()
            .map(|q| project.sql(q))
            .collect::<Result<Vec<String>>>()
    };
    let before = ask()?;
    let sums = project.checksums("shop")?;

    project.lose_compute()?;
    project.xylem(&["compute", "start", "main"])?;
    for (question, (before, after)) in QUESTIONS.iter().zip(before.iter().zip(ask()?)) {
        assert_eq!(before, &after, "{question}");
    }
    assert_eq!(project.checksums("shop")?, sums);
    assert_eq!(project.check("shop")?, Vec::<String>::new());

    // The objects also work.
    project.sql("CALL shop.add_order(3, 1, 1.00)")?;
    assert_eq!(project.sql("SELECT what FROM shop.audit")?, "order 3\n");
    let next: i64 = project
        .sql("SELECT NEXT VALUE FOR shop.numbers")?
        .trim()
        .parse()?;
    assert!(next >= 110, "a sequence must not go back: {next}");

    // A name that was dropped is free again, on this compute and the next.
    project.sql("CREATE TABLE shop.dropped (a INT PRIMARY KEY); DROP TABLE shop.dropped")?;
    project.sql("DROP DATABASE `odd name/é#`; DROP VIEW shop.spenders; DROP TRIGGER shop.watch")?;
    project.kill_server()?;
    project.lose_compute()?;
    project.start()?;
    let left = project.sql(
        "SELECT COUNT(*) FROM information_schema.tables WHERE table_name IN ('spenders', 'dropped') \
         OR table_schema LIKE 'odd%'",
    )?;
    assert_eq!(left.trim(), "0");
    assert_eq!(project.sql("SHOW TRIGGERS FROM shop")?, "");
    Ok(())
}

#[test]
fn the_files_of_a_compute_hold_no_data() -> Result<()> {
    let project = Project::up("16MiB")?;
    project.sql(
        "CREATE DATABASE d; USE d; CREATE TABLE d.t (id INT PRIMARY KEY, secret CHAR(40)); \
         INSERT INTO d.t SELECT seq, CONCAT('needle-', MD5(seq)) FROM seq_1_to_100000",
    )?;
    // A clean stop flushes everything.
    let dir = project.compute()?["dir"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    project.xylem(&["compute", "stop", "main"])?;
    let mut blocks = 0;
    let mut folders = vec![std::path::PathBuf::from(dir)];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
                continue;
            }
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.ends_with(".ibd")
                || name.starts_with("ibdata")
                || name.starts_with("undo")
                || name.starts_with("ib_logfile")
            {
                use std::os::unix::fs::MetadataExt;
                let allocated = entry.metadata()?.blocks() * 512;
                assert!(
                    allocated <= 128 << 10,
                    "{name} takes {allocated} bytes of disk"
                );
                blocks += allocated;
            }
        }
    }
    println!("all of InnoDB's files together take {blocks} bytes of disk");
    project.xylem(&["compute", "start", "main"])?;
    assert_eq!(
        project
            .sql("SELECT COUNT(*) FROM d.t WHERE secret LIKE 'needle-%'")?
            .trim(),
        "100000"
    );
    Ok(())
}

#[test]
fn what_cannot_work_is_refused() -> Result<()> {
    let project = Project::up("16MiB")?;
    project.sql("CREATE DATABASE d; CREATE TABLE d.t (id INT PRIMARY KEY)")?;
    let error = project.sql_error("SET GLOBAL innodb_log_file_size = 1073741824")?;
    assert!(error.contains("no fixed size"), "{error}");
    let error = project.sql_error("SET GLOBAL innodb_encrypt_tables = ON")?;
    assert!(error.contains("innodb_encrypt_tables"), "{error}");
    for (option, word) in [
        ("ENCRYPTED=YES", "ENCRYPTED"),
        ("DATA DIRECTORY='/tmp'", "DATA DIRECTORY"),
        ("ENGINE=MERGE UNION=()", "MERGE"),
    ] {
        let error = project.sql_error(&format!("CREATE TABLE d.m (a INT) {option}"))?;
        assert!(error.contains(word), "{option}: {error}");
    }
    Ok(())
}

#[test]
fn thousands_of_tables_and_the_longest_names() -> Result<()> {
    const TABLES: u32 = 2000;
    let project = Project::up("64MiB")?;
    let mut sql = String::from("CREATE DATABASE many; USE many;\n");
    for table in 0..TABLES {
        sql.push_str(&format!("CREATE TABLE t{table} (a INT PRIMARY KEY);\n"));
    }
    sql.push_str(&format!("INSERT INTO t{} VALUES (7);\n", TABLES - 1));
    let script = project.dir().join("many.sql");
    std::fs::write(&script, sql)?;
    project.sql(&format!("source {}", script.display()))?;
    // Each dot becomes five bytes of the file name, `@002e`.
    let dots = ".".repeat(50);
    project.sql(&format!(
        "CREATE DATABASE `{dots}`; CREATE TABLE `{dots}`.`{dots}` (a INT PRIMARY KEY); \
         INSERT INTO `{dots}`.`{dots}` VALUES (1), (2), (3)"
    ))?;
    project.lose_compute()?;
    project.xylem(&["compute", "start", "main"])?;
    assert_eq!(
        project
            .sql("SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = 'many'")?,
        format!("{TABLES}\n")
    );
    assert_eq!(
        project.sql(&format!(
            "SELECT SUM(a) FROM `{dots}`.`{dots}`; SELECT a FROM many.t{}",
            TABLES - 1
        ))?,
        "6\n7\n"
    );
    project.sql(&format!("DROP DATABASE `{dots}`; DROP DATABASE many"))?;
    project.lose_compute()?;
    project.xylem(&["compute", "start", "main"])?;
    let names = project.sql("SHOW DATABASES")?;
    assert!(!names.contains(&dots) && !names.contains("many"), "{names}");
    Ok(())
}

/// The rows of log tables are not part of the branch: they would be sent and kept, and
/// each compute would fetch them.
#[test]
fn log_tables_are_a_compute_s_own() -> Result<()> {
    let project = Project::up("16MiB")?;
    project.sql("SET GLOBAL log_output = 'TABLE'; CREATE DATABASE d")?;
    let sent = "SELECT variable_value FROM information_schema.global_status \
                WHERE variable_name = 'innodb_page_server_side_file_ops'";
    let before = project.sql(sent)?;
    let noise = "SELECT 1;".repeat(200);
    project.sql(&format!(
        "SET GLOBAL general_log = ON; SET GLOBAL slow_query_log = ON; {noise} \
         SET GLOBAL general_log = OFF; SET GLOBAL slow_query_log = OFF"
    ))?;
    let count = "SELECT COUNT(*) > 0 FROM mysql.general_log";
    assert_eq!(project.sql(count)?, "1\n");
    assert_eq!(project.sql(sent)?, before, "log tables were sent");
    project.lose_compute()?;
    project.start()?;
    let rows = "SELECT COUNT(*) FROM mysql.general_log; SELECT COUNT(*) FROM mysql.slow_log";
    assert_eq!(project.sql(rows)?, "0\n0\n");
    project.sql(
        "SET GLOBAL log_output = 'TABLE'; SET GLOBAL general_log = ON; DO 1; \
         SET GLOBAL general_log = OFF",
    )?;
    assert_eq!(project.sql(count)?, "1\n");
    assert_eq!(
        project.sql("CHECK TABLE mysql.general_log, mysql.slow_log")?,
        "mysql.general_log\tcheck\tstatus\tOK\nmysql.slow_log\tcheck\tstatus\tOK\n"
    );
    // After a rename, the rows of a log table are part of the branch.
    project.sql("RENAME TABLE mysql.general_log TO mysql.general_log_old")?;
    project.lose_compute()?;
    project.start()?;
    assert_eq!(
        project.sql("SELECT COUNT(*) > 0 FROM mysql.general_log_old")?,
        "1\n"
    );
    Ok(())
}
