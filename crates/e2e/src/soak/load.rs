//! The clients of a soak.

use crate::Project;
use anyhow::{Context, Result, ensure};
use mysql::prelude::Queryable;
use mysql::{Conn, OptsBuilder, TxOpts};
use std::fmt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, Scope};
use std::time::{Duration, Instant};

/// Accounts, and what each has at the beginning.
const ACCOUNTS: u32 = 1_000;
const BALANCE: u32 = 100;
/// Statements of a client before it connects anew.
const STATEMENTS: u32 = 200;
/// Pause of a client between two statements or transactions.
const PAUSE: Duration = Duration::from_millis(10);
/// Pause of a client on `nap`, longer than its compute waits before it sleeps.
const NAP: Duration = Duration::from_secs(5);
const SUSPEND_AFTER: &str = "2s";
/// Pause between two runs of a command line.
const COMMAND: Duration = Duration::from_millis(500);
/// Clients of each kind.
const CLIENTS: u32 = 2;
/// Clients on `nap`. They come back at different times.
const NAPPERS: u32 = 3;
/// Errors of MariaDB that a client gets when its compute dies: a lost transaction, a
/// statement that may have been executed.
const DEATH: [u16; 2] = [1213, 1053];

/// Counts of the clients' work.
#[derive(Debug, Default)]
pub(super) struct Tally {
    connections: AtomicU64,
    statements: AtomicU64,
    transactions: AtomicU64,
    wakes: AtomicU64,
    commands: AtomicU64,
    kills: AtomicU64,
    deaths: AtomicU64,
    errors: Mutex<Vec<String>>,
}

impl Tally {
    pub(super) fn failed(&self, what: &str, error: &anyhow::Error) {
        self.all().push(format!("{what}: {error:#}"));
    }

    pub(super) fn killed(&self) {
        self.kills.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn kills(&self) -> u64 {
        self.kills.load(Ordering::Relaxed)
    }

    pub(super) fn errors(&self) -> Vec<String> {
        self.all().clone()
    }

    fn all(&self) -> std::sync::MutexGuard<'_, Vec<String>> {
        self.errors
            .lock()
            .unwrap_or_else(|error| error.into_inner())
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        write!(
            f,
            "{} connections, {} statements, {} transactions, {} statements after a nap, \
             {} commands, {} computes killed, {} errors of their clients",
            of(&self.connections),
            of(&self.statements),
            of(&self.transactions),
            of(&self.wakes),
            of(&self.commands),
            of(&self.kills),
            of(&self.deaths)
        )
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// How clients reach the project.
pub(super) struct Load {
    home: PathBuf,
    dir: PathBuf,
    port: u16,
    api: String,
    user: String,
    password: String,
}

impl Load {
    /// Creates the accounts and the branches.
    pub(super) fn prepare(project: &Project) -> Result<Load> {
        project.sql(&format!(
            "CREATE DATABASE soak; \
             CREATE TABLE soak.account (id INT PRIMARY KEY, balance INT NOT NULL); \
             INSERT INTO soak.account SELECT seq, {BALANCE} FROM soak.seq_1_to_{ACCOUNTS}"
        ))?;
        for (branch, suspend_after) in [("nap", SUSPEND_AFTER), ("prey", "0s")] {
            project.xylem(&["branch", "create", branch, "--suspend-after", suspend_after])?;
        }
        let status = project.json(&["status"])?;
        let port = status["gateway"]["port"].as_u64().context("no gateway")?;
        let api = status["api"]["port"].as_u64().context("no API")?;
        let login = project.login()?;
        Ok(Load {
            home: project.home().to_owned(),
            dir: project.dir().to_owned(),
            port: port.try_into()?,
            api: format!("https://127.0.0.1:{api}"),
            user: login.user,
            password: login.password,
        })
    }

    /// Starts all clients; they end soon after `stop`.
    pub(super) fn start<'s>(
        &'s self,
        scope: &'s Scope<'s, '_>,
        stop: &'s AtomicBool,
        tally: &'s Tally,
    ) {
        let begin = move |what: &'static str, client: Client| {
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    if let Err(error) = client(self, stop, tally) {
                        tally.failed(what, &error);
                        break;
                    }
                }
            });
        };
        for _ in 0..CLIENTS {
            begin("a client that comes and goes", Load::come_and_go);
            begin("a client with prepared statements", Load::prepared);
            begin("a client with transactions", Load::transactions);
            begin("a client of a compute that is killed", Load::among_kills);
        }
        for _ in 0..NAPPERS {
            begin("a client that naps", Load::nap);
            thread::sleep(Duration::from_millis(700));
        }
        begin("MariaDB's command line", Load::command_line);
        begin("the API", Load::ask_api);
    }

    fn connect(&self, branch: &str, tally: &Tally) -> mysql::Result<Conn> {
        let options = OptsBuilder::new()
            .ip_or_hostname(Some("127.0.0.1"))
            .tcp_port(self.port)
            .prefer_socket(false)
            .user(Some(format!("{}@{branch}", self.user)))
            .pass(Some(&self.password))
            .db_name(Some("soak"));
        let client = Conn::new(options)?;
        count(&tally.connections);
        Ok(client)
    }

    fn come_and_go(&self, _: &AtomicBool, tally: &Tally) -> Result<()> {
        let mut client = self.connect("main", tally)?;
        let rows: Option<u32> = client.query_first("SELECT COUNT(*) FROM account")?;
        ensure!(rows == Some(ACCOUNTS), "{rows:?} accounts");
        count(&tally.statements);
        thread::sleep(PAUSE);
        Ok(())
    }

    fn prepared(&self, stop: &AtomicBool, tally: &Tally) -> Result<()> {
        let mut client = self.connect("main", tally)?;
        for n in 0..STATEMENTS {
            // Texts differ, so that no cache of the client keeps the statement.
            let text = format!("SELECT balance + {n} FROM account WHERE id = ?");
            let statement = client.prep(text)?;
            let balance: Option<i64> = client.exec_first(&statement, (n % ACCOUNTS + 1,))?;
            balance.context("an account is missing")?;
            client.close(statement)?;
            count(&tally.statements);
            thread::sleep(PAUSE);
            if stop.load(Ordering::Relaxed) {
                break;
            }
        }
        Ok(())
    }

    fn transactions(&self, stop: &AtomicBool, tally: &Tally) -> Result<()> {
        let mut client = self.connect("main", tally)?;
        for n in 0..STATEMENTS {
            match transfer(&mut client, n) {
                Ok(()) => count(&tally.transactions),
                // The other client has the same two accounts.
                Err(error) if number(&error) == Some(1213) => {}
                Err(error) => return Err(error.into()),
            }
            thread::sleep(PAUSE);
            if stop.load(Ordering::Relaxed) {
                break;
            }
        }
        Ok(())
    }

    /// As [`Load::transactions`], on a compute that is killed now and then.
    fn among_kills(&self, stop: &AtomicBool, tally: &Tally) -> Result<()> {
        let connected = self.connect("prey", tally);
        let Ok(mut client) = connected else {
            count(&tally.deaths);
            thread::sleep(PAUSE);
            return Ok(());
        };
        for n in 0..STATEMENTS {
            match transfer(&mut client, n) {
                Ok(()) => count(&tally.transactions),
                Err(error) => {
                    count(&tally.deaths);
                    if !number(&error).is_some_and(|number| DEATH.contains(&number)) {
                        // Its connection is lost.
                        break;
                    }
                }
            }
            thread::sleep(PAUSE);
            if stop.load(Ordering::Relaxed) {
                break;
            }
        }
        Ok(())
    }

    /// A client whose compute sleeps between two statements and that keeps its variable.
    fn nap(&self, stop: &AtomicBool, tally: &Tally) -> Result<()> {
        let mut client = self.connect("nap", tally)?;
        for n in 0..STATEMENTS {
            client.query_drop(format!("SET @n = {n}"))?;
            let begun = Instant::now();
            while begun.elapsed() < NAP {
                thread::sleep(PAUSE * 10);
                if stop.load(Ordering::Relaxed) {
                    return Ok(());
                }
            }
            let kept: Option<u32> = client.query_first("SELECT @n")?;
            ensure!(kept == Some(n), "@n was {n} and is {kept:?}");
            count(&tally.wakes);
        }
        Ok(())
    }

    /// MariaDB's own client, with TLS.
    fn command_line(&self, _: &AtomicBool, tally: &Tally) -> Result<()> {
        let prefix = self.home.join("mariadb/usr");
        let ca = self.dir.join("tls/ca.pem");
        let mut client = Command::new(prefix.join("bin/mariadb"));
        client
            .args([
                "--no-defaults",
                "--protocol=tcp",
                "--host=127.0.0.1",
                "--ssl",
            ])
            .arg("--ssl-verify-server-cert")
            .arg(format!("--ssl-ca={}", ca.display()))
            .arg(format!("--port={}", self.port))
            .arg(format!("--user={}", self.user))
            .args(["--execute", "SELECT SUM(balance) FROM soak.account"])
            .env("MYSQL_PWD", &self.password)
            .env("LD_LIBRARY_PATH", prefix.join("lib/x86_64-linux-gnu"));
        succeed(&mut client)?;
        count(&tally.commands);
        thread::sleep(COMMAND);
        Ok(())
    }

    /// A command that goes by the API.
    fn ask_api(&self, _: &AtomicBool, tally: &Tally) -> Result<()> {
        let mut status = Command::new(self.home.join("bin/xylem"));
        status
            .args(["status", "--json", "--server", &self.api])
            .arg("--ca")
            .arg(self.dir.join("tls/ca.pem"))
            .arg("--token-file")
            .arg(self.dir.join("token"));
        succeed(&mut status)?;
        count(&tally.commands);
        thread::sleep(COMMAND);
        Ok(())
    }

    /// Checks that transactions kept the sum of all balances.
    pub(super) fn check(&self, project: &Project) -> Result<()> {
        for branch in ["main", "prey"] {
            let sum = project.sql_on(branch, "SELECT SUM(balance) FROM soak.account")?;
            ensure!(
                sum.trim() == (ACCOUNTS * BALANCE).to_string(),
                "the accounts of branch {branch} have {} instead of {}",
                sum.trim(),
                ACCOUNTS * BALANCE
            );
        }
        Ok(())
    }
}

/// One of the clients: does some of its work, and returns to do more.
type Client = fn(&Load, &AtomicBool, &Tally) -> Result<()>;

/// Moves money from one account to another.
fn transfer(client: &mut Conn, n: u32) -> mysql::Result<()> {
    let (from, to) = (n % ACCOUNTS + 1, (n * 7 + 3) % ACCOUNTS + 1);
    let mut transaction = client.start_transaction(TxOpts::default())?;
    for (account, amount) in [(from, -1), (to, 1)] {
        transaction.exec_drop(
            "UPDATE account SET balance = balance + ? WHERE id = ?",
            (amount, account),
        )?;
    }
    transaction.commit()
}

/// The number of an error of the server.
fn number(error: &mysql::Error) -> Option<u16> {
    match error {
        mysql::Error::MySqlError(error) => Some(error.code),
        _ => None,
    }
}

fn succeed(command: &mut Command) -> Result<()> {
    let out = command.stdin(Stdio::null()).output()?;
    ensure!(
        out.status.success(),
        "{} failed: {}",
        command.get_program().to_string_lossy(),
        String::from_utf8_lossy(&out.stderr)
    );
    Ok(())
}
