//! One client that changes the schema, and a model of the schema.
//!
//! After a kill the schema must be the model's as of the last acknowledged statement, or
//! as of the statement that was under way, and nothing in between. MariaDB's dictionary,
//! its files and InnoDB must name the same tables.

use super::{Random, Victim, check, connect, let_run, revive};
use crate::Project;
use anyhow::{Context, Result, ensure};
use mysql::Conn;
use mysql::prelude::Queryable;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Table {
    columns: u64,
    indexes: u64,
    rows: u64,
}

/// A model of the schema.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Schema {
    tables: BTreeMap<String, Table>,
    /// Views, with the number that each selects.
    views: BTreeMap<String, u64>,
    sequences: BTreeSet<String>,
    triggers: BTreeSet<String>,
    procedures: BTreeSet<String>,
    users: BTreeSet<String>,
}

/// The client's progress.
#[derive(Clone, Debug, Default)]
struct History {
    /// The schema as of the last acknowledged statement.
    done: Schema,
    /// The schema after the statement that is under way.
    next: Schema,
    /// The statement that is under way.
    statement: String,
    acknowledged: u64,
}

impl Schema {
    /// A random statement that changes the schema, and the resulting schema.
    fn step(&self, random: &mut Random) -> (String, Schema) {
        let mut next = self.clone();
        let some = |random: &mut Random| {
            let at = random.below(self.tables.len().max(1) as u64) as usize;
            self.tables
                .iter()
                .nth(at)
                .map(|(name, table)| (name.clone(), table.clone()))
        };
        let id = random.below(8);
        let Some((name, table)) = some(random) else {
            return create(next, "t0");
        };
        let entry = |next: &mut Schema, change: &dyn Fn(&mut Table)| {
            if let Some(table) = next.tables.get_mut(&name) {
                change(table);
            }
        };
        let statement = match random.below(18) {
            0 | 1 if !self.tables.contains_key(&format!("t{id}")) => {
                return create(next, &format!("t{id}"));
            }
            2 | 3 if table.columns < 12 => {
                let algorithm = if random.below(2) == 0 {
                    "INSTANT"
                } else {
                    "COPY"
                };
                entry(&mut next, &|t| t.columns += 1);
                format!(
                    "ALTER TABLE ddl.{name} ADD COLUMN c{} INT NOT NULL DEFAULT 5, ALGORITHM={algorithm}",
                    table.columns
                )
            }
            4 if table.indexes == 1 => {
                entry(&mut next, &|t| t.indexes = 2);
                format!("ALTER TABLE ddl.{name} ADD INDEX extra (v), ALGORITHM=INPLACE")
            }
            5 if table.indexes == 2 => {
                entry(&mut next, &|t| t.indexes = 1);
                format!("ALTER TABLE ddl.{name} DROP INDEX extra")
            }
            6 => format!("ALTER TABLE ddl.{name} FORCE, ALGORITHM=INPLACE"),
            7 if !self.tables.contains_key(&format!("r{id}"))
                && !self.triggers.contains(&format!("tr_{name}")) =>
            {
                next.tables.remove(&name);
                next.tables.insert(format!("r{id}"), table);
                format!("RENAME TABLE ddl.{name} TO ddl.r{id}")
            }
            8 if self.tables.len() > 2 => {
                next.tables.remove(&name);
                next.triggers.remove(&format!("tr_{name}"));
                format!("DROP TABLE ddl.{name}")
            }
            9 => {
                entry(&mut next, &|t| t.rows = 0);
                format!("TRUNCATE TABLE ddl.{name}")
            }
            10 | 14 => {
                let view = format!("v{}", id / 2);
                if self.views.contains_key(&view) && random.below(3) == 0 {
                    next.views.remove(&view);
                    format!("DROP VIEW ddl.{view}")
                } else {
                    let x = random.below(1000);
                    next.views.insert(view.clone(), x);
                    format!("CREATE OR REPLACE VIEW ddl.{view} AS SELECT {x} AS x")
                }
            }
            15 => toggle(&mut next.sequences, &format!("s{id}"), |s| {
                (
                    format!("CREATE SEQUENCE ddl.{s} START WITH 7"),
                    format!("DROP SEQUENCE ddl.{s}"),
                )
            }),
            // Equivalent to OPTIMIZE TABLE.
            16 => format!("ALTER TABLE ddl.{name} FORCE, ALGORITHM=COPY"),
            11 => toggle(&mut next.triggers, &format!("tr_{name}"), |t| {
                (
                    format!(
                        "CREATE TRIGGER ddl.{t} BEFORE INSERT ON ddl.{name} FOR EACH ROW SET NEW.v = NEW.v"
                    ),
                    format!("DROP TRIGGER ddl.{t}"),
                )
            }),
            12 => toggle(&mut next.procedures, &format!("p{id}"), |p| {
                (
                    format!("CREATE PROCEDURE ddl.{p} () SELECT {id}"),
                    format!("DROP PROCEDURE ddl.{p}"),
                )
            }),
            13 => toggle(&mut next.users, &format!("u{id}"), |u| {
                (
                    format!("CREATE USER {u}@localhost IDENTIFIED BY 'p'"),
                    format!("DROP USER {u}@localhost"),
                )
            }),
            _ => {
                entry(&mut next, &|t| t.rows += 20);
                format!("INSERT INTO ddl.{name} (v) SELECT seq FROM seq_1_to_20")
            }
        };
        (statement, next)
    }

    /// Reads the actual schema.
    fn read(conn: &mut Conn) -> Result<Schema> {
        let mut schema = Schema::default();
        let columns: Vec<(String, u64)> = conn.query(
            "SELECT t.table_name, COUNT(*) FROM information_schema.tables t \
             JOIN information_schema.columns c ON c.table_schema = t.table_schema AND c.table_name = t.table_name \
             WHERE t.table_schema = 'ddl' AND t.table_type = 'BASE TABLE' GROUP BY t.table_name",
        )?;
        for (name, columns) in columns {
            let rows = conn
                .query_first(format!("SELECT COUNT(*) FROM ddl.`{name}`"))?
                .context("no count")?;
            let indexes = conn
                .query_first(format!(
                    "SELECT COUNT(DISTINCT index_name) FROM information_schema.statistics \
                     WHERE table_schema = 'ddl' AND table_name = '{name}'"
                ))?
                .context("no count")?;
            schema.tables.insert(
                name,
                Table {
                    columns,
                    indexes,
                    rows,
                },
            );
        }
        let names = |conn: &mut Conn, sql: &str| -> Result<BTreeSet<String>> {
            Ok(conn
                .query::<String, _>(sql)
                .context(sql.to_owned())?
                .into_iter()
                .collect())
        };
        for view in names(
            conn,
            "SELECT table_name FROM information_schema.views WHERE table_schema = 'ddl'",
        )? {
            let x = conn.query_first(format!("SELECT x FROM ddl.{view}"))?;
            schema.views.insert(view, x.context("an empty view")?);
        }
        schema.sequences = names(
            conn,
            "SELECT table_name FROM information_schema.tables WHERE table_schema = 'ddl' \
             AND table_type = 'SEQUENCE'",
        )?;
        schema.triggers = names(
            conn,
            "SELECT trigger_name FROM information_schema.triggers WHERE trigger_schema = 'ddl'",
        )?;
        schema.procedures = names(
            conn,
            "SELECT routine_name FROM information_schema.routines WHERE routine_schema = 'ddl'",
        )?;
        schema.users = names(
            conn,
            "SELECT user FROM mysql.user WHERE user RLIKE '^u[0-9]$'",
        )?;
        Ok(schema)
    }
}

fn create(mut next: Schema, name: &str) -> (String, Schema) {
    next.tables.insert(
        name.to_owned(),
        Table {
            columns: 2,
            indexes: 1,
            rows: 0,
        },
    );
    (
        format!("CREATE TABLE ddl.{name} (id INT AUTO_INCREMENT PRIMARY KEY, v INT)"),
        next,
    )
}

/// Creates an object that does not exist, or drops one that exists.
fn toggle(
    set: &mut BTreeSet<String>,
    name: &str,
    sql: impl Fn(&str) -> (String, String),
) -> String {
    let (make, drop) = sql(name);
    if set.remove(name) {
        drop
    } else {
        set.insert(name.to_owned());
        make
    }
}

fn client(
    mut conn: Conn,
    mut random: Random,
    history: &Mutex<History>,
    stop: &AtomicBool,
) -> Result<()> {
    let locked = || {
        history
            .lock()
            .map_err(|_| anyhow::anyhow!("the history's holder panicked"))
    };
    while !stop.load(Ordering::Relaxed) {
        let statement = {
            let mut history = locked()?;
            let (statement, next) = history.done.step(&mut random);
            history.next = next;
            history.statement.clone_from(&statement);
            statement
        };
        match conn.query_drop(&statement) {
            Ok(()) => {
                let mut history = locked()?;
                history.done = history.next.clone();
                history.acknowledged += 1;
            }
            // The server rejects the statement, so the model is wrong.
            Err(mysql::Error::MySqlError(error)) if error.code != 1053 && error.code != 1927 => {
                return Err(error).with_context(|| statement);
            }
            // The connection broke.
            Err(_) => return Ok(()),
        }
    }
    Ok(())
}

/// Checks that dictionary, files and InnoDB name the same tables.
fn agree(project: &Project, conn: &mut Conn, schema: &Schema) -> Result<()> {
    let tables: BTreeSet<String> = schema
        .tables
        .keys()
        .chain(&schema.sequences)
        .cloned()
        .collect();
    let innodb: BTreeSet<String> = conn
        .query::<String, _>(
            "SELECT name FROM information_schema.innodb_sys_tables WHERE name LIKE 'ddl/%'",
        )?
        .into_iter()
        .map(|name| name.trim_start_matches("ddl/").to_owned())
        .collect();
    ensure!(
        innodb == tables,
        "InnoDB has {innodb:?}, the dictionary {tables:?}"
    );
    let compute = project.compute()?;
    let dir = std::path::Path::new(compute["dir"].as_str().context("no dir")?).join("data/ddl");
    let mut frms = BTreeSet::new();
    for entry in
        std::fs::read_dir(&dir).with_context(|| format!("cannot list {}", dir.display()))?
    {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if let Some(name) = name.strip_suffix(".frm") {
            frms.insert(name.to_owned());
        }
    }
    let wanted: BTreeSet<String> = tables.iter().chain(schema.views.keys()).cloned().collect();
    ensure!(
        frms == wanted,
        ".frm files {frms:?}, tables and views {wanted:?}"
    );
    Ok(())
}

/// Runs `rounds` rounds.
///
/// # Errors
/// The first fault that is found.
pub fn run(project: &Project, rounds: u32, random: &mut Random) -> Result<()> {
    connect(project)?.query_drop("CREATE DATABASE ddl")?;
    let history = Arc::new(Mutex::new(History::default()));
    for round in 1..=rounds {
        let stop = Arc::new(AtomicBool::new(false));
        let mut conn = connect(project)?;
        conn.query_drop("USE ddl")?;
        let worker = {
            let (history, stop, random) = (
                history.clone(),
                stop.clone(),
                Random(random.below(u64::MAX)),
            );
            std::thread::spawn(move || client(conn, random, &history, &stop))
        };
        let_run(Duration::from_millis(50 + random.below(1000)));
        let victim = Victim::choose(random);
        victim.strike(project)?;
        let join = |worker: std::thread::JoinHandle<Result<()>>| {
            worker
                .join()
                .map_err(|_| anyhow::anyhow!("the client panicked"))?
        };
        let mut conn = if victim.ends_connections() {
            join(worker)?;
            revive(project)?
        } else {
            let conn = revive(project)?;
            stop.store(true, Ordering::Relaxed);
            join(worker)?;
            conn
        };
        let found = Schema::read(&mut conn)?;
        let mut known = history
            .lock()
            .map_err(|_| anyhow::anyhow!("the client panicked"))?;
        let context = || format!("round {round}, {victim:?}, during: {}", known.statement);
        ensure!(
            found == known.done || found == known.next,
            "{}:\nfound        {found:?}\nacknowledged {:?}\nunder way    {:?}",
            context(),
            known.done,
            known.next
        );
        agree(project, &mut conn, &found).with_context(context)?;
        if round % 10 == 0 || round == rounds {
            if !found.tables.is_empty() {
                check(project, &["ddl"]).with_context(context)?;
            }
            println!(
                "ddl: round {round}, {} statements acknowledged",
                known.acknowledged
            );
        }
        known.done = found;
    }
    Ok(())
}
