//! Where a setting comes from: one table of keys, three places to find them.

use crate::size::ByteSize;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// A setting: `name` in a file, `--name` with dashes as a flag, `XYLEM_NAME`
/// in the environment.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Its name in a file.
    pub name: &'static str,
    /// What it sets.
    pub about: &'static str,
}

/// Every setting.
pub const KEYS: [Key; 28] = [
    Key {
        name: "data_dir",
        about: "directory of the project",
    },
    Key {
        name: "grpc_listen",
        about: "address of the gRPC service",
    },
    Key {
        name: "http_listen",
        about: "address of /metrics, /healthz and /readyz",
    },
    Key {
        name: "memory",
        about: "memory of the page store",
    },
    Key {
        name: "wal_segment_size",
        about: "size of a WAL segment file",
    },
    Key {
        name: "open_layer_size",
        about: "redo in an open layer before it is flushed",
    },
    Key {
        name: "page_wait_timeout_ms",
        about: "how long a page read waits for its LSN",
    },
    Key {
        name: "stop_grace_ms",
        about: "how long computes may stay connected at a stop",
    },
    Key {
        name: "token",
        about: "token that callers must send",
    },
    Key {
        name: "token_file",
        about: "file that holds the token",
    },
    Key {
        name: "log_format",
        about: "text or json",
    },
    Key {
        name: "log_level",
        about: "a level or a tracing filter",
    },
    Key {
        name: "object_store",
        about: "URL of the store of catalogue, layers and manifests",
    },
    Key {
        name: "wal_store",
        about: "where branches' WALs are: local or object",
    },
    Key {
        name: "wal_backup",
        about: "how old a commit may become before a local WAL's copy in the object store has it",
    },
    Key {
        name: "ownership_lease",
        about: "how long this server may acknowledge commits once another has claimed the project",
    },
    Key {
        name: "on_store_outage",
        about: "what becomes of commits on local WALs while the store does not answer",
    },
    Key {
        name: "cache_size",
        about: "local disk for copies of a remote store's objects",
    },
    Key {
        name: "history",
        about: "how far back every moment stays within reach",
    },
    Key {
        name: "lease_timeout_ms",
        about: "how long the lease of a read-only compute is kept unused",
    },
    Key {
        name: "stall_timeout_ms",
        about: "how long a caller may take no answer, or send no item, on a stream",
    },
    Key {
        name: "connections_max",
        about: "connections that are open at the same time",
    },
    Key {
        name: "leases_max",
        about: "leases of read-only computes that there may be",
    },
    Key {
        name: "page_threads",
        about: "threads that read pages from layers",
    },
    Key {
        name: "worker_threads",
        about: "threads that serve connections",
    },
    Key {
        name: "compute_redo_log_size",
        about: "size of a compute's sparse ib_logfile0",
    },
    Key {
        name: "ingest_lag_soft",
        about: "lag of ingest from which writers are slowed",
    },
    Key {
        name: "scrub_bytes_per_second",
        about: "what the scrub in the background reads in a second",
    },
];

/// A setting cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read configuration file {}: {source}", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("configuration file {} is not TOML: {message}", path.display())]
    Syntax {
        /// Which.
        path: PathBuf,
        /// What is wrong, and where.
        message: String,
    },
    /// The file has a key that is not known.
    #[error("configuration file {}: unknown key {key:?}; did you mean {closest:?}?", path.display())]
    UnknownKey {
        /// Which file.
        path: PathBuf,
        /// What it has.
        key: String,
        /// The known key most like it.
        closest: &'static str,
    },
    /// A value makes no sense.
    #[error("{origin}: {message}")]
    Value {
        /// Flag, variable, or file and key.
        origin: String,
        /// What is wrong, and what would be right.
        message: String,
    },
    /// A setting without a default is missing.
    #[error(
        "{key} is not set: {hint} (--{}, {}, or {key} in the configuration file)",
        flag(key),
        variable(key)
    )]
    Missing {
        /// Which.
        key: &'static str,
        /// What it is for.
        hint: &'static str,
    },
}

fn flag(key: &str) -> String {
    key.replace('_', "-")
}

fn variable(key: &str) -> String {
    format!("XYLEM_{}", key.to_ascii_uppercase())
}

/// Strongest last.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Origin {
    File(PathBuf),
    Environment,
    Flag,
}

/// What was set, where.
pub(super) struct Layers {
    values: BTreeMap<&'static str, (Origin, String)>,
}

impl Layers {
    pub(super) fn read(
        flags: &dyn Fn(&str) -> Option<String>,
        env: &dyn Fn(&str) -> Option<String>,
        file: Option<&Path>,
    ) -> Result<Layers, ConfigError> {
        let mut values = BTreeMap::new();
        if let Some(path) = file {
            for (key, text) in read_file(path)? {
                values.insert(key, (Origin::File(path.to_owned()), text));
            }
        }
        for key in KEYS.map(|key| key.name) {
            if let Some(text) = env(&variable(key)) {
                values.insert(key, (Origin::Environment, text));
            }
            if let Some(text) = flags(key) {
                values.insert(key, (Origin::Flag, text));
            }
        }
        Ok(Layers { values })
    }

    pub(super) fn text(&self, key: &str) -> Option<&str> {
        self.values.get(key).map(|(_, text)| text.as_str())
    }

    /// The one of two settings that was set in the stronger place.
    pub(super) fn stronger(&self, a: &'static str, b: &'static str) -> Option<&'static str> {
        match (self.values.get(a), self.values.get(b)) {
            (None, None) => None,
            (Some(_), None) => Some(a),
            (None, Some(_)) => Some(b),
            (Some((of_a, _)), Some((of_b, _))) => Some(if of_a >= of_b { a } else { b }),
        }
    }

    /// An error about `key`, with the place it was set in.
    pub(super) fn bad(&self, key: &str, message: &str) -> ConfigError {
        let origin = match self.values.get(key).map(|(origin, _)| origin) {
            Some(Origin::Flag) => format!("flag --{}", flag(key)),
            Some(Origin::Environment) => format!("environment variable {}", variable(key)),
            Some(Origin::File(path)) => format!("configuration file {}, key {key}", path.display()),
            None => key.to_owned(),
        };
        ConfigError::Value {
            origin,
            message: message.to_owned(),
        }
    }

    fn parsed<T: FromStr<Err: fmt::Display>>(&self, key: &str) -> Result<Option<T>, ConfigError> {
        let Some(text) = self.text(key) else {
            return Ok(None);
        };
        text.parse()
            .map(Some)
            .map_err(|error: T::Err| self.bad(key, &format!("{text:?}: {error}")))
    }

    pub(super) fn or<T: FromStr<Err: fmt::Display>>(
        &self,
        key: &str,
        default: T,
    ) -> Result<T, ConfigError> {
        Ok(self.parsed(key)?.unwrap_or(default))
    }

    pub(super) fn required<T: FromStr<Err: fmt::Display>>(
        &self,
        key: &'static str,
        hint: &'static str,
    ) -> Result<T, ConfigError> {
        self.parsed(key)?.ok_or(ConfigError::Missing { key, hint })
    }

    pub(super) fn number(
        &self,
        key: &str,
        default: u64,
        min: u64,
        max: u64,
    ) -> Result<u64, ConfigError> {
        let number = self.or(key, default)?;
        if (min..=max).contains(&number) {
            Ok(number)
        } else {
            Err(self.bad(key, &format!("{number} is not between {min} and {max}")))
        }
    }

    pub(super) fn size(
        &self,
        key: &str,
        default: u64,
        min: u64,
        max: u64,
    ) -> Result<ByteSize, ConfigError> {
        let size = self.or(key, ByteSize(default))?;
        if (ByteSize(min)..=ByteSize(max)).contains(&size) {
            Ok(size)
        } else {
            Err(self.bad(
                key,
                &format!(
                    "{size} is not between {} and {}",
                    ByteSize(min),
                    ByteSize(max)
                ),
            ))
        }
    }
}

fn read_file(path: &Path) -> Result<Vec<(&'static str, String)>, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Unreadable {
        path: path.to_owned(),
        source,
    })?;
    let table: toml::Table =
        text.parse()
            .map_err(|error: toml::de::Error| ConfigError::Syntax {
                path: path.to_owned(),
                message: error.to_string(),
            })?;
    let mut found = Vec::new();
    for (key, value) in table {
        let Some(known) = KEYS.iter().find(|known| known.name == key) else {
            return Err(ConfigError::UnknownKey {
                path: path.to_owned(),
                closest: closest(&key),
                key,
            });
        };
        let text = match value {
            toml::Value::String(text) => text,
            toml::Value::Integer(number) => number.to_string(),
            other => {
                return Err(ConfigError::Value {
                    origin: format!("configuration file {}, key {key}", path.display()),
                    message: format!(
                        "a string or a whole number is wanted, this is a {}",
                        other.type_str()
                    ),
                });
            }
        };
        found.push((known.name, text));
    }
    Ok(found)
}

fn closest(key: &str) -> &'static str {
    let likeness = |name: &str| strsim::jaro_winkler(name, key);
    KEYS.iter()
        .map(|known| known.name)
        .max_by(|a, b| likeness(a).total_cmp(&likeness(b)))
        .unwrap_or("data_dir")
}
