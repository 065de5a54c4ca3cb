//! Stock MariaDB for the tests of import and export: a directory with every kind of table,
//! queries that must return the same everywhere, and a check that a directory is unchanged.

use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hasher};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;
use xylem_e2e::{Project, free_ports};
use xylem_oracle::server::{Install, Server};

/// Every kind of table, and all other objects.
pub const SCHEMA: &str = r"
CREATE DATABASE shop CHARACTER SET utf8mb4 COLLATE utf8mb4_czech_ci;
CREATE DATABASE `odd name/é#`;
CREATE DATABASE other;
CREATE TABLE other.half (id INT PRIMARY KEY, total DECIMAL(10,2), half DECIMAL(10,2) AS (total / 2) VIRTUAL, KEY (half));
USE shop;
CREATE TABLE customer (id INT PRIMARY KEY AUTO_INCREMENT, name VARCHAR(100), note TEXT,
  FULLTEXT KEY (note), KEY (name));
CREATE TABLE orders (id BIGINT PRIMARY KEY, customer INT, total DECIMAL(10,2),
  doubled DECIMAL(10,2) AS (total * 2) STORED,
  FOREIGN KEY (customer) REFERENCES customer (id) ON DELETE CASCADE);
CREATE TABLE place (id INT PRIMARY KEY, at POINT NOT NULL, SPATIAL KEY (at));
CREATE TABLE packed (id INT PRIMARY KEY, body MEDIUMTEXT, KEY (body(50)))
  ROW_FORMAT=COMPRESSED KEY_BLOCK_SIZE=8;
CREATE TABLE redundant (id INT PRIMARY KEY, a CHAR(10), KEY (a)) ROW_FORMAT=REDUNDANT;
CREATE TABLE compact (id INT PRIMARY KEY, a CHAR(10)) ROW_FORMAT=COMPACT;
CREATE TABLE nokey (a INT, b VARCHAR(40));
CREATE TABLE big (id INT PRIMARY KEY, a VARCHAR(200), b LONGTEXT, c LONGBLOB, KEY (a));
CREATE TABLE parts (id INT, yr INT, PRIMARY KEY (id, yr))
  PARTITION BY RANGE (yr) SUBPARTITION BY HASH (id) SUBPARTITIONS 2
  (PARTITION p0 VALUES LESS THAN (2000), PARTITION `p 1` VALUES LESS THAN MAXVALUE);
CREATE TABLE versioned (id INT PRIMARY KEY, v INT) WITH SYSTEM VERSIONING;
CREATE TABLE squeezed (id INT PRIMARY KEY, body TEXT) PAGE_COMPRESSED=1;
CREATE TABLE modern (id UUID PRIMARY KEY DEFAULT UUID(), j JSON, i INET6, ts TIMESTAMP(6));
CREATE SEQUENCE numbers START WITH 100 INCREMENT BY 10;
CREATE TABLE `odd name/é#`.`table.with ünusual` (`spalte ä` INT PRIMARY KEY, `日本` TEXT, FULLTEXT KEY (`日本`));
INSERT INTO customer (name, note) VALUES ('Ada', 'the quick brown fox'), ('Bob', 'a lazy dog');
INSERT INTO customer (name, note) SELECT CONCAT('c', seq), MD5(seq) FROM seq_1_to_3000;
INSERT INTO orders (id, customer, total) VALUES (1, 1, 10.50), (2, 2, 7.25);
INSERT INTO orders (id, customer, total) SELECT seq + 2, seq, seq / 7 FROM seq_1_to_3000;
INSERT INTO other.half (id, total) SELECT seq, seq / 7 FROM seq_1_to_2000;
INSERT INTO place SELECT seq, POINT(seq, seq * 2) FROM seq_1_to_2000;
INSERT INTO packed SELECT seq, REPEAT(MD5(seq), 300) FROM seq_1_to_500;
INSERT INTO redundant SELECT seq, seq FROM seq_1_to_2000;
INSERT INTO compact SELECT seq, seq FROM seq_1_to_2000;
INSERT INTO nokey SELECT seq, MD5(seq) FROM seq_1_to_500;
INSERT INTO big SELECT seq, CONCAT('row ', seq), REPEAT(MD5(seq), 1 + seq % 2000), NULL FROM seq_1_to_1500;
INSERT INTO parts SELECT seq, 1990 + seq % 20 FROM seq_1_to_2000;
INSERT INTO versioned SELECT seq, seq FROM seq_1_to_100; UPDATE versioned SET v = v + 10;
INSERT INTO squeezed SELECT seq, REPEAT(CONCAT('z', seq % 7), 500) FROM seq_1_to_1000;
INSERT INTO modern SELECT UUID(), JSON_OBJECT('n', seq), '::1', '2020-01-01' FROM seq_1_to_100;
INSERT INTO `odd name/é#`.`table.with ünusual` VALUES (1, 'eins zwei'), (2, 'drei'), (3, NULL);
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
ALTER TABLE orders ADD COLUMN email VARCHAR(50) DEFAULT 'none';
ALTER TABLE nokey ADD COLUMN c VARCHAR(50) DEFAULT 'none', ALGORITHM=INSTANT;
ALTER TABLE orders ADD INDEX by_email (email), ALGORITHM=INPLACE;
ALTER TABLE compact DROP COLUMN a, ADD COLUMN b INT DEFAULT 7 FIRST, ALGORITHM=INSTANT;
ALTER TABLE redundant ADD COLUMN b INT DEFAULT 7, ALGORITHM=COPY;
RENAME TABLE redundant TO renamed;
CREATE TABLE dropped (id INT PRIMARY KEY); DROP TABLE dropped;
CREATE TABLE emptied (id INT PRIMARY KEY); INSERT INTO emptied VALUES (1); TRUNCATE TABLE emptied;
DELETE FROM big WHERE id % 10 = 3; UPDATE big SET a = CONCAT(a, ' new') WHERE id % 7 = 0;
";

/// Queries that must return the same on every server.
pub const QUESTIONS: &[&str] = &[
    "SELECT schema_name, default_collation_name FROM information_schema.schemata \
     WHERE schema_name NOT IN ('sys') ORDER BY 1",
    "SELECT table_schema, table_name, table_type, engine, row_format FROM information_schema.tables \
     WHERE table_schema IN ('shop', 'odd name/é#') ORDER BY 1, 2",
    "SHOW CREATE TABLE shop.customer",
    "SHOW CREATE TABLE shop.orders",
    "SHOW CREATE TABLE shop.parts",
    "SHOW CREATE TABLE shop.packed",
    "SHOW CREATE TABLE shop.squeezed",
    "SHOW CREATE TABLE shop.renamed",
    "SHOW CREATE VIEW shop.spenders",
    "SHOW CREATE PROCEDURE shop.add_order",
    "SHOW CREATE EVENT shop.nightly",
    "SHOW GRANTS FOR teller@localhost",
    "SHOW GRANTS FOR cashier",
    "SELECT trigger_name, action_statement FROM information_schema.triggers WHERE trigger_schema = 'shop'",
    "SELECT routine_name FROM information_schema.routines WHERE routine_schema = 'shop' ORDER BY 1",
    "SELECT event_name FROM information_schema.events WHERE event_schema = 'shop'",
    "SELECT COUNT(*), SUM(total) FROM shop.spenders",
    "SELECT COUNT(*), SUM(doubled) FROM shop.orders",
    "SELECT COUNT(*), SUM(half) FROM other.half FORCE INDEX (half) WHERE half >= 0",
    "SELECT COUNT(*) FROM shop.orders FORCE INDEX (by_email) WHERE email = 'none'",
    "SELECT id FROM shop.customer WHERE MATCH (note) AGAINST ('fox')",
    "SELECT `spalte ä` FROM `odd name/é#`.`table.with ünusual` WHERE MATCH (`日本`) AGAINST ('zwei')",
    "SELECT COUNT(*) FROM shop.place WHERE ST_Within(at, ST_GeomFromText('POLYGON((0 0,0 90,90 90,90 0,0 0))'))",
    "SELECT COUNT(*), SUM(CRC32(body)) FROM shop.packed",
    "SELECT COUNT(*), SUM(CRC32(b)) FROM shop.big",
    "SELECT id, v FROM shop.versioned FOR SYSTEM_TIME ALL ORDER BY 1, 2",
    "SELECT yr, COUNT(*) FROM shop.parts PARTITION (`p 1`) GROUP BY yr",
    "SELECT * FROM `odd name/é#`.`table.with ünusual`",
    "SELECT shop.twice(21)",
    "SELECT COUNT(*) FROM shop.emptied",
    "SELECT MAX(id) FROM shop.customer",
];

/// The databases of [`SCHEMA`] with tables.
pub const DATABASES: &[&str] = &["shop", "odd name/é#", "other"];

/// A stock MariaDB: its directory and how it is started.
pub struct Stock {
    /// The directory with all files of the server.
    pub dir: TempDir,
    install: Install,
    options: Vec<String>,
}

impl Stock {
    /// A new database.
    pub fn create(options: &[&str]) -> Result<Stock> {
        let stock = Stock {
            dir: tempfile::Builder::new().prefix("xylem-stock-").tempdir()?,
            install: Install::from_env()?,
            options: options.iter().map(|o| (*o).to_owned()).collect(),
        };
        stock
            .install
            .create_database(&stock.data(), &stock.options)?;
        Ok(stock)
    }

    /// A server on an existing directory.
    pub fn on(data: &Path, options: &[&str]) -> Result<Stock> {
        let stock = Stock {
            dir: tempfile::Builder::new().prefix("xylem-stock-").tempdir()?,
            install: Install::from_env()?,
            options: options.iter().map(|o| (*o).to_owned()).collect(),
        };
        std::fs::rename(data, stock.data())
            .with_context(|| format!("cannot move {}", data.display()))?;
        Ok(stock)
    }

    /// The data directory.
    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// Starts the server.
    pub fn start(&self) -> Result<Server> {
        self.start_with(&[])
    }

    /// Starts the server with further options.
    pub fn start_with(&self, more: &[&str]) -> Result<Server> {
        let mut options = self.options.clone();
        options.extend(more.iter().map(|o| (*o).to_owned()));
        self.install.start(&self.data(), self.dir.path(), &options)
    }

    /// Starts the server, runs `sql` from a file, and stops the server cleanly.
    pub fn fill(&self, sql: &str) -> Result<()> {
        let mut server = self.start()?;
        server.run(&[sql.to_owned()], false)?;
        server.stop()
    }

    /// A program of the installation.
    pub fn program(&self, name: &str) -> Result<Command> {
        Ok(Install::from_env()?.program(name))
    }
}

/// The checksums of the tables and the answers to the queries, through `query`.
pub fn ask(query: impl Fn(&str) -> Result<String>) -> Result<BTreeMap<String, String>> {
    let mut out = BTreeMap::new();
    for question in QUESTIONS {
        out.insert((*question).to_owned(), query(question)?);
    }
    for database in DATABASES {
        out.extend(sums(&query, database)?);
    }
    Ok(out)
}

/// `CHECKSUM TABLE … EXTENDED` of the tables of a database. For tables with generated
/// columns, whose checksum changes with each start of MariaDB, a sum over all columns.
pub fn sums(
    query: &impl Fn(&str) -> Result<String>,
    database: &str,
) -> Result<BTreeMap<String, String>> {
    let tables = query(&format!(
        "SELECT table_name FROM information_schema.tables WHERE table_schema = '{database}' \
         AND table_type IN ('BASE TABLE', 'SYSTEM VERSIONED') ORDER BY 1"
    ))?;
    let mut out = BTreeMap::new();
    for table in tables.lines() {
        let name = format!("`{database}`.`{table}`");
        let generated = query(&format!(
            "SELECT CONCAT('COALESCE(HEX(`', GROUP_CONCAT(column_name SEPARATOR '`), 0), COALESCE(HEX(`'), \
             '`), 0)') FROM information_schema.columns WHERE table_schema = '{database}' \
             AND table_name = '{table}' HAVING SUM(is_generated = 'ALWAYS') > 0"
        ))?;
        let row = match generated.trim() {
            "" => query(&format!("CHECKSUM TABLE {name} EXTENDED"))?,
            columns => query(&format!(
                "SELECT COUNT(*), SUM(CRC32(CONCAT_WS('|', {columns}))) FROM {name}"
            ))?,
        };
        ensure!(!row.contains("NULL"), "{name} cannot be read: {row}");
        out.insert(name, row);
    }
    ensure!(!out.is_empty(), "{database} has no tables");
    Ok(out)
}

/// `CHECK TABLE … EXTENDED` of the tables of [`SCHEMA`]; complaints only.
pub fn check(query: impl Fn(&str) -> Result<String>) -> Result<Vec<String>> {
    let mut bad = Vec::new();
    for database in DATABASES {
        for table in sums(&query, database)?.keys() {
            let rows = query(&format!("CHECK TABLE {table} EXTENDED"))?;
            bad.extend(
                rows.lines()
                    .filter(|row| !row.ends_with("\tOK"))
                    .map(str::to_owned),
            );
        }
    }
    Ok(bad)
}

/// Compares answers, and reports which differ.
pub fn assert_same(left: &BTreeMap<String, String>, right: &BTreeMap<String, String>) {
    for (question, answer) in left {
        assert_eq!(Some(answer), right.get(question), "{question}");
    }
    assert_eq!(left.len(), right.len());
}

/// Size, content and modification time of every file in a directory.
pub fn fingerprint(dir: &Path) -> Result<BTreeMap<PathBuf, (u64, u64, i64, i64)>> {
    let mut out = BTreeMap::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder)? {
            let path = entry?.path();
            let meta = std::fs::symlink_metadata(&path)?;
            let mut hasher = DefaultHasher::new();
            if meta.is_dir() {
                folders.push(path.clone());
            } else {
                hasher.write(&std::fs::read(&path)?);
            }
            let stamp = (meta.len(), hasher.finish(), meta.mtime(), meta.mtime_nsec());
            out.insert(path, stamp);
        }
    }
    Ok(out)
}

/// `xylem import DIR` into a new project.
pub fn import(project: &Project, dir: &Path, more: &[&str]) -> Result<Output> {
    let ports: Vec<String> = free_ports(2)?.iter().map(u16::to_string).collect();
    let dir = dir.to_string_lossy();
    let mut args = vec![
        "import",
        &dir,
        "--grpc-port",
        &ports[0],
        "--http-port",
        &ports[1],
    ];
    args.extend(more);
    project.try_xylem(&args)
}

/// `xylem import DIR` into a new project, which must succeed.
pub fn import_done(project: &Project, dir: &Path) -> Result<String> {
    let out = import(project, dir, &[])?;
    ensure!(
        out.status.success(),
        "import failed: {}\n{}",
        String::from_utf8_lossy(&out.stderr),
        project.logs()
    );
    Ok(String::from_utf8(out.stdout)?)
}

/// Starts the compute of `main` of an imported project.
pub fn up(project: &Project) -> Result<()> {
    // Further computes take the ports after that of the first.
    let port = free_ports(8)?[0].to_string();
    project
        .xylem(&[
            "up",
            "--detach",
            "--buffer-pool",
            "32MiB",
            "--mysql-port",
            &port,
        ])
        .map(|_| ())
}

/// Waits until purge has finished; until then CHECK TABLE warns.
pub fn wait_purged(query: impl Fn(&str) -> Result<String>) -> Result<()> {
    for _ in 0..600 {
        let left = query(
            "SELECT variable_value FROM information_schema.global_status \
             WHERE variable_name = 'Innodb_history_list_length'",
        )?;
        if left.trim() == "0" {
            return Ok(());
        }
        query("DO SLEEP(0.1)")?;
    }
    anyhow::bail!("purge does not end")
}
