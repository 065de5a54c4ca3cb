//! The SQL that fills an empty branch: MariaDB's own scripts, with every system
//! table in InnoDB, since only InnoDB tables are durable here.
//!
//! As `mariadb-install-db`, without its test database and anonymous accounts.
//! `root` gets an unusable password; see [`accounts_sql`].

use crate::home::Home;
use crate::project::Accounts;
use anyhow::{Context, Result};
use std::fmt::Write;
use xylem_datadir::own::OWN_USER;

/// The first statement of an init file: Xylem's changes of accounts concern one
/// compute. In the binary log they would change the accounts of stock replicas.
pub const NOT_IN_BINARY_LOG: &str = "SET SESSION sql_log_bin = 0;\n";

/// The scripts in order, and whether they create tables.
const SCRIPTS: [(&str, bool); 6] = [
    ("mysql_system_tables.sql", true),
    ("mysql_performance_tables.sql", false),
    ("mysql_system_tables_data.sql", false),
    ("fill_help_tables.sql", false),
    ("maria_add_gis_sp_bootstrap.sql", false),
    ("mysql_sys_schema.sql", true),
];

/// The hash of no password.
const NO_PASSWORD: &str = "invalid";

/// `SUPER_ACL` in `sql/privilege.h`.
const SUPER: u64 = 1 << 15;

/// Keeps only `root@localhost`, without a usable password: the first start of a
/// compute sets the project's password.
const ACCOUNTS: &str = "\
use mysql;
DELETE FROM mysql.global_priv WHERE User='' OR (User='root' AND Host<>'localhost');
UPDATE mysql.global_priv SET Priv='{\"access\":18446744073709551615,\"plugin\":\"mysql_native_password\",\"authentication_string\":\"invalid\"}' WHERE User='root';
DELETE FROM mysql.proxies_priv WHERE Host<>'localhost';
";

/// All the SQL for `mariadbd --bootstrap`.
///
/// # Errors
/// When a script cannot be read.
pub fn sql(home: &Home) -> Result<String> {
    let mut out = String::from(
        "create database if not exists mysql;\nuse mysql;\nSET @auth_root_socket='root';\n",
    );
    for (name, makes_tables) in SCRIPTS {
        let path = home.share().join(name);
        // One of the help texts is not UTF-8 in some versions.
        let script =
            std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let script = String::from_utf8_lossy(&script);
        if makes_tables {
            out.push_str(&in_innodb(&script));
        } else {
            out.push_str(&script);
        }
        out.push('\n');
    }
    out.push_str(ACCOUNTS);
    Ok(out)
}

/// Foreign keys of the help tables: Aria ignores them, and InnoDB refuses them,
/// since the tables they name are created later.
const FALSE_REFERENCES: [&str; 2] = [" references help_topic", " references help_keyword"];

/// `script` with `engine=Aria` as `engine=InnoDB` and without Aria's
/// `transactional`. Statistics of system tables are not kept in tables, as
/// MariaDB has it for its own InnoDB tables.
pub fn in_innodb(script: &str) -> String {
    let script = FALSE_REFERENCES
        .iter()
        .fold(script.to_owned(), |text, it| text.replace(it, ""));
    let mut out = String::with_capacity(script.len());
    let mut rest = script.as_str();
    while let Some((before, name, value, after)) = next_option(rest) {
        out.push_str(before);
        let persistent = "STATS_PERSISTENT=0";
        match (
            name.to_ascii_lowercase().as_str(),
            value.to_ascii_lowercase().as_str(),
        ) {
            // Not a table's option but a variable: `default_storage_engine`.
            ("engine", "aria") if before.ends_with('_') => {
                let _ = write!(out, "{name}=InnoDB");
            }
            ("engine", "aria") => {
                let _ = write!(out, "{name}=InnoDB {persistent}");
            }
            ("transactional", "0" | "1") => {}
            _ => out.push_str(&rest[before.len()..rest.len() - after.len()]),
        }
        rest = after;
    }
    out.push_str(rest);
    out
}

/// The next `engine = word` or `transactional = word`: the text before it, its
/// name, its value, and the text after it.
fn next_option(text: &str) -> Option<(&str, &str, &str, &str)> {
    let mut from = 0;
    loop {
        let (at, name) = ["engine", "transactional"]
            .into_iter()
            .filter_map(|name| {
                find_ignoring_case(text.get(from..)?, name).map(|at| (from + at, name))
            })
            .min()?;
        let end = at + name.len();
        let after = text[end..].trim_start();
        if let Some(value) = after.strip_prefix('=') {
            let value = value.trim_start();
            let length = value
                .find(|c: char| !c.is_ascii_alphanumeric())
                .unwrap_or(value.len());
            if length > 0 {
                return Some((
                    &text[..at],
                    &text[at..end],
                    &value[..length],
                    &value[length..],
                ));
            }
        }
        from = end;
    }
}

fn find_ignoring_case(text: &str, word: &str) -> Option<usize> {
    let (text, word) = (text.as_bytes(), word.as_bytes());
    // The match is ASCII, so it begins and ends at character boundaries.
    text.windows(word.len())
        .position(|window| window.eq_ignore_ascii_case(word))
}

/// The condition that the account `user`@`host` has the password `password`.
fn has_password(user: &str, host: &str, password: &str) -> String {
    format!(
        "EXISTS (SELECT 1 FROM mysql.global_priv WHERE User='{user}' AND Host='{host}' \
         AND JSON_VALUE(Priv,'$.authentication_string')=PASSWORD('{password}'))"
    )
}

/// Statements that create `user`@`host` with all rights.
fn make_account(user: &str, host: &str, password: &str) -> String {
    let who = format!("'{user}'@'{host}'");
    // Not GRANT PROXY: that is not granted to the user the init file runs as.
    format!(
        "CREATE OR REPLACE USER {who} IDENTIFIED BY '{password}'; \
         GRANT ALL PRIVILEGES ON *.* TO {who} WITH GRANT OPTION; \
         REPLACE INTO mysql.proxies_priv VALUES ('{host}', '{user}', '', '', 1, '', current_timestamp()); \
         FLUSH PRIVILEGES;"
    )
}

/// `then` if `condition` holds, in one line, as an init file needs it.
fn only_if(condition: &str, then: &str) -> String {
    format!("BEGIN NOT ATOMIC IF {condition} THEN {then} END IF; END;\n")
}

/// A statement of one line, whose failure does not end the init file.
pub fn if_possible(statement: &str) -> String {
    let bytes: String = statement
        .bytes()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    // Not the statement itself: a variable that is unknown is an error of the whole line.
    format!(
        "BEGIN NOT ATOMIC DECLARE CONTINUE HANDLER FOR SQLEXCEPTION BEGIN END; \
         SET sql_mode = ''; EXECUTE IMMEDIATE _utf8mb4 X'{bytes}'; END;\n"
    )
}

fn quoted(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\'', "\\'")
}

/// SQL of every start, before anybody can connect: creates the account of xylem's
/// own client with `password` and all rights, unless it exists. It nearly always
/// does; then nothing is written.
///
/// It may be missing because a dump of all databases replaces all accounts, and
/// different because SQL can change any password.
pub fn own_account_sql(password: &str) -> String {
    let password = quoted(password);
    let ready = format!(
        "EXISTS (SELECT 1 FROM mysql.global_priv WHERE User='{OWN_USER}' AND Host='localhost' \
         AND JSON_VALUE(Priv,'$.plugin')='mysql_native_password' \
         AND JSON_VALUE(Priv,'$.authentication_string')=PASSWORD('{password}') \
         AND COALESCE(JSON_VALUE(Priv,'$.account_locked'),'0') IN ('0','false') \
         AND COALESCE(JSON_VALUE(Priv,'$.password_last_changed'),'1')<>'0' \
         AND CAST(JSON_VALUE(Priv,'$.access') AS UNSIGNED) & {SUPER})"
    );
    only_if(
        &format!("NOT {ready}"),
        &make_account(OWN_USER, "localhost", &password),
    )
}

/// SQL that lets people log in as `user` with `password` from the hosts that
/// `accounts` says.
///
/// `root` gets its password if it has none, as in a new project; a password that
/// people have set in SQL stays. The account for other machines exists as long as
/// computes listen to them, and is removed when they do not, unless it has another
/// password: then people have made it.
pub fn accounts_sql(user: &str, password: &str, accounts: Accounts) -> String {
    let password = quoted(password);
    let local: Vec<String> = ["localhost", "127.0.0.1", "::1"]
        .iter()
        .map(|host| make_account(user, host, &password))
        .collect();
    let mut out = only_if(
        &format!(
            "EXISTS (SELECT 1 FROM mysql.global_priv WHERE User='{user}' AND Host='localhost' \
             AND JSON_VALUE(Priv,'$.authentication_string')='{NO_PASSWORD}')"
        ),
        &local.join(" "),
    );
    out.push_str(&if accounts == Accounts::Any {
        only_if(
            &format!(
                "NOT EXISTS (SELECT 1 FROM mysql.global_priv WHERE User='{user}' AND Host='%')"
            ),
            &make_account(user, "%", &password),
        )
    } else {
        only_if(
            &has_password(user, "%", &password),
            &format!("DROP USER '{user}'@'%';"),
        )
    });
    out
}
