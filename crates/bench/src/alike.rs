//! Whether the systems are set alike: a benchmark of two MariaDB servers with different
//! character sets measures character sets.

use crate::report::Who;
use crate::system::System;
use anyhow::{Context, Result, ensure};
use mysql::prelude::Queryable;
use std::collections::BTreeMap;

/// Variables that differ, or names that these begin with, and why they may.
const MAY_DIFFER: &[(&str, &str)] = &[
    // Names and places.
    ("aria_log_dir_path", "a path"),
    ("basedir", "a path"),
    ("bind_address", "clients use the Unix socket"),
    ("character_sets_dir", "a path"),
    ("datadir", "a path"),
    ("init_file", "Xylem's account for itself"),
    ("innodb_page_server_", "Xylem's own"),
    ("lc_messages_dir", "a path"),
    ("log_error", "a path"),
    ("pid_file", "a path"),
    ("plugin_dir", "a path"),
    ("port", "clients use the Unix socket"),
    ("report_port", "clients use the Unix socket"),
    ("secure_file_priv", "a path"),
    ("server_uid", "a name"),
    ("skip_name_resolve", "clients use the Unix socket"),
    ("skip_networking", "clients use the Unix socket"),
    ("slave_load_tmpdir", "a path"),
    ("socket", "a path"),
    ("tmpdir", "a path"),
    ("wsrep_data_home_dir", "a path"),
    // Benchmarks connect over the Unix socket, without TLS.
    ("have_ssl", "a compute has a certificate"),
    ("ssl_", "a compute has a certificate"),
    ("proxy_protocol_networks", "the gateway's connections"),
    // What separates the two.
    (
        "enforce_storage_engine",
        "a compute keeps no tables of other engines",
    ),
    ("ignore_builtin_innodb", "InnoDB is a plugin"),
    ("plugin_maturity", "InnoDB is a plugin"),
    ("innodb_doublewrite", "a compute writes no pages"),
    (
        "innodb_log_file_size",
        "a compute's log is the page server's; stock has its default",
    ),
    ("relay_log_recovery", "nothing is replicated here"),
    // Caches of engines that the benchmark does not use.
    (
        "aria_pagecache_buffer_size",
        "stock has its default, which is more",
    ),
    ("key_buffer_size", "stock has its default, which is more"),
];

/// Compares the global variables of the first system, stock MariaDB, with those of this
/// build of Xylem. Earlier builds may have had other defaults, which are a part of them.
///
/// # Errors
/// When one differs that must not.
pub fn check(systems: &[System]) -> Result<()> {
    let Some((first, others)) = systems.split_first() else {
        return Ok(());
    };
    let expected = variables(first)?;
    for system in others.iter().filter(|system| system.who == Who::Xylem) {
        let differing = differing(&expected, &variables(system)?);
        ensure!(
            differing.is_empty(),
            "{} and {} are not set alike: {}; set both alike, or say in alike.rs why not",
            first.who.name(),
            system.who.name(),
            differing.join(", ")
        );
    }
    Ok(())
}

/// The global system variables, in lower case.
fn variables(system: &System) -> Result<BTreeMap<String, String>> {
    let rows: Vec<(String, String)> = system
        .connect()?
        .query(
            "SELECT LOWER(variable_name), global_value FROM information_schema.system_variables \
             WHERE global_value IS NOT NULL",
        )
        .context("cannot read the system variables")?;
    Ok(rows.into_iter().collect())
}

/// Variables of both that have different values and may not. What only one of them has
/// belongs to its version.
pub fn differing(one: &BTreeMap<String, String>, other: &BTreeMap<String, String>) -> Vec<String> {
    let may_differ = |name: &str| {
        MAY_DIFFER
            .iter()
            .any(|(known, _)| match known.strip_suffix('_') {
                Some(_) => name.starts_with(known),
                None => name == *known,
            })
    };
    one.iter()
        .filter_map(|(name, value)| Some((name, value, other.get(name)?)))
        .filter(|(name, value, theirs)| value != theirs && !may_differ(name))
        .map(|(name, value, theirs)| format!("{name} is {value:?} and {theirs:?}"))
        .collect()
}
