//! A client that captures changes (CDC) from the binary log: PyPI's mysql-replication, in a
//! Python that has it.

use crate::{Project, kill, wait_until};
use anyhow::{Context, Result, ensure};
use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;
use tempfile::TempDir;

/// The variable that names such a Python.
pub const PYTHON: &str = "XYLEM_TEST_CDC_PYTHON";

/// Writes a line "writer number" for each change of `kills.counter`, once its transaction is
/// whole. After the loss of the connection it goes on behind the last whole transaction.
const PROGRAM: &str = r#"
import sys, time
from pymysqlreplication import BinLogStreamReader
from pymysqlreplication.event import MariadbGtidEvent, XidEvent
from pymysqlreplication.row_event import UpdateRowsEvent, WriteRowsEvent

port, out = int(sys.argv[1]), open(sys.argv[2], "a", buffering=1)
settings = dict(host="127.0.0.1", port=port, user="repl", password="r")
done = sys.argv[3]
while True:
    try:
        stream = BinLogStreamReader(
            connection_settings=settings, server_id=88, is_mariadb=True, blocking=True,
            auto_position=done, only_schemas=["kills"],
            only_events=[MariadbGtidEvent, XidEvent, WriteRowsEvent, UpdateRowsEvent])
        gtid, lines = None, []
        for event in stream:
            if isinstance(event, MariadbGtidEvent):
                gtid, lines = event.gtid, []
            elif isinstance(event, XidEvent):
                for line in lines:
                    out.write(line)
                done, lines = gtid, []
                # The stream connects again by itself, from here.
                stream.auto_position = done
            elif isinstance(event, UpdateRowsEvent) and event.table == "counter":
                for row in event.rows:
                    row = row["after_values"]
                    lines.append("%d %d\n" % (row["id"], row["n"]))
    except Exception as error:
        print(error, file=sys.stderr, flush=True)
        time.sleep(0.2)
"#;

/// A running client.
pub struct Cdc {
    child: Child,
    out: PathBuf,
    said: PathBuf,
    _dir: TempDir,
}

impl Cdc {
    /// Starts the client at the present end of main's log, if [`PYTHON`] names a Python. The
    /// account is that of [`crate::replica::Replica::of`].
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn of(project: &Project) -> Result<Option<Cdc>> {
        let Some(python) = std::env::var_os(PYTHON) else {
            return Ok(None);
        };
        let dir = tempfile::tempdir()?;
        let (program, out) = (dir.path().join("cdc.py"), dir.path().join("out"));
        let said = dir.path().join("said");
        std::fs::write(&program, PROGRAM)?;
        let position = project.sql("SELECT @@gtid_binlog_pos")?;
        let child = Command::new(&python)
            .arg(&program)
            .arg(project.compute()?["port"].to_string())
            .arg(&out)
            .arg(position.trim())
            .stderr(File::create(&said)?)
            .spawn()
            .with_context(|| format!("cannot start {}", Path::new(&python).display()))?;
        Ok(Some(Cdc {
            child,
            out,
            said,
            _dir: dir,
        }))
    }

    /// Waits until the client has seen the last number of each writer, and checks that it saw
    /// each number once and in order.
    ///
    /// # Errors
    /// When a number is missing, came twice, or too early.
    pub fn follows(&self, project: &Project) -> Result<()> {
        let rows = project.sql("SELECT id, n FROM kills.counter WHERE n > 0 ORDER BY id")?;
        let wanted = numbers(&rows)?;
        let waited = wait_until("the CDC client to follow", Duration::from_secs(60), || {
            let seen = std::fs::read_to_string(&self.out).unwrap_or_default();
            let mut next: HashMap<u64, u64> = HashMap::new();
            // The last line may be half there.
            let whole = seen.rfind('\n').map_or("", |end| &seen[..end]);
            for (writer, number) in numbers(whole)? {
                let next = next.entry(writer).or_insert(1);
                ensure!(
                    number == *next,
                    "writer {writer}: {number} came in place of {next}"
                );
                *next += 1;
            }
            let last = |(writer, last): &(u64, u64)| {
                next.get(writer).is_some_and(|next| next - 1 == *last)
            };
            Ok(wanted.iter().all(last))
        });
        waited.with_context(|| {
            let said = std::fs::read_to_string(&self.said).unwrap_or_default();
            format!("{wanted:?} is wanted; the client said {said}")
        })
    }
}

fn numbers(rows: &str) -> Result<Vec<(u64, u64)>> {
    let mut out = Vec::new();
    for row in rows.lines() {
        let (writer, number) = row.split_once(char::is_whitespace).context("no number")?;
        out.push((writer.parse()?, number.parse()?));
    }
    Ok(out)
}

impl Drop for Cdc {
    fn drop(&mut self) {
        let _ = i32::try_from(self.child.id()).map(kill);
        let _ = self.child.wait();
    }
}
