//! Filling an empty branch: MariaDB's own scripts, with every system table in
//! InnoDB, where alone it is durable.
//!
//! As `mariadb-install-db` does it, without its test database and anonymous
//! accounts. `root` gets a password that no one has; see [`accounts_sql`].

use crate::home::Home;
use crate::project::Accounts;
use anyhow::{Context, Result};
use std::fmt::Write;

/// The scripts in order, and whether they make tables.
const SCRIPTS: [(&str, bool); 6] = [
    ("mysql_system_tables.sql", true),
    ("mysql_performance_tables.sql", false),
    ("mysql_system_tables_data.sql", false),
    ("fill_help_tables.sql", false),
    ("maria_add_gis_sp_bootstrap.sql", false),
    ("mysql_sys_schema.sql", true),
];

/// Only `root@localhost`, and that without a usable password: whoever has the
/// project's password sets it at the first start.
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

/// Foreign keys of the help tables: Aria takes no notice of them, for
/// InnoDB they are wrong (the tables they name are made later).
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

/// The next `engine = word` or `transactional = word`: what is before, the
/// name, the value, and what is after.
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

/// SQL that lets `user` in with `password` and all rights: from this machine,
/// or from everywhere. The same again changes nothing.
pub fn accounts_sql(user: &str, password: &str, accounts: Accounts) -> String {
    let mut hosts = vec!["localhost", "127.0.0.1", "::1"];
    if accounts == Accounts::Any {
        hosts.push("%");
    }
    let password = password.replace('\\', "\\\\").replace('\'', "\\'");
    let mut out = String::new();
    for host in hosts {
        let who = format!("'{user}'@'{host}'");
        let _ = writeln!(
            out,
            "CREATE USER IF NOT EXISTS {who} IDENTIFIED BY '{password}';"
        );
        let _ = writeln!(out, "ALTER USER {who} IDENTIFIED BY '{password}';");
        let _ = writeln!(
            out,
            "GRANT ALL PRIVILEGES ON *.* TO {who} WITH GRANT OPTION;"
        );
        // Not GRANT PROXY: that is not granted to the user the init file runs as.
        let _ = writeln!(
            out,
            "REPLACE INTO mysql.proxies_priv VALUES ('{host}', '{user}', '', '', 1, '', current_timestamp());"
        );
    }
    out.push_str("FLUSH PRIVILEGES;\n");
    out
}
