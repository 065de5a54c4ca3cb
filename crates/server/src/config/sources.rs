//! The places where a setting can be set, and their precedence.

use super::settings::{Fallback, SETTINGS, Setting};
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// A setting cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read configuration file {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The operating system's error.
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("configuration file {} is not TOML: {message}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The parser's message, with the position.
        message: String,
    },
    /// The file has an unknown key.
    #[error("configuration file {}: unknown key {key:?}; did you mean {closest:?}?", path.display())]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// The unknown key.
        key: String,
        /// The most similar known key.
        closest: &'static str,
    },
    /// A value is invalid.
    #[error("{origin}: {message}")]
    Value {
        /// Flag, variable, or file and key.
        origin: String,
        /// The problem, and the valid values.
        message: String,
    },
    /// A setting without a default is missing.
    #[error(
        "{} is not set: set --{}, {}, or {} in the configuration file",
        .0.name, .0.flag(), .0.variable(), .0.name
    )]
    Missing(Setting),
}

/// Where a setting was set, in ascending precedence.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Origin {
    File(PathBuf),
    Environment,
    Flag,
}

/// The values that were set, with their origins.
pub(super) struct Sources {
    values: BTreeMap<&'static str, (Origin, String)>,
}

impl Sources {
    pub(super) fn read<'a>(
        flags: &dyn Fn(&str) -> Option<&'a String>,
        env: &dyn Fn(&str) -> Option<String>,
        file: Option<&Path>,
    ) -> Result<Sources, ConfigError> {
        let mut values = BTreeMap::new();
        if let Some(path) = file {
            for (name, text) in read_file(path)? {
                values.insert(name, (Origin::File(path.to_owned()), text));
            }
        }
        for setting in SETTINGS {
            if let Some(text) = env(&setting.variable()) {
                values.insert(setting.name, (Origin::Environment, text));
            }
            if let Some(text) = flags(setting.name) {
                values.insert(setting.name, (Origin::Flag, text.clone()));
            }
        }
        Ok(Sources { values })
    }

    pub(super) fn text(&self, setting: &Setting) -> Option<&str> {
        self.values.get(setting.name).map(|(_, text)| text.as_str())
    }
    /// An error about `setting` that says where it was set.
    pub(super) fn bad(&self, setting: &Setting, message: &str) -> ConfigError {
        let name = setting.name;
        let origin = match self.values.get(name).map(|(origin, _)| origin) {
            Some(Origin::Flag) => format!("flag --{}", setting.flag()),
            Some(Origin::Environment) => format!("environment variable {}", setting.variable()),
            Some(Origin::File(path)) => {
                format!("configuration file {}, key {name}", path.display())
            }
            None => name.to_owned(),
        };
        ConfigError::Value {
            origin,
            message: message.to_owned(),
        }
    }

    /// The value that was set, else the default, else `None`. Both must be within
    /// the setting's range.
    pub(super) fn find<T>(&self, setting: &Setting) -> Result<Option<T>, ConfigError>
    where
        T: FromStr<Err: fmt::Display> + PartialOrd,
    {
        let parse = |text: &str| {
            text.parse::<T>()
                .map_err(|error| self.bad(setting, &format!("{text:?}: {error}")))
        };
        let text = match (self.text(setting), setting.default) {
            (Some(text), _) | (None, Fallback::Is(text)) => text,
            (None, Fallback::Required) => return Err(ConfigError::Missing(*setting)),
            (None, Fallback::Off | Fallback::Depends(_)) => return Ok(None),
        };
        let value = parse(text)?;
        if let Some((least, most)) = setting.range
            && !(parse(least)?..=parse(most)?).contains(&value)
        {
            return Err(self.bad(
                setting,
                &format!("{text} is not between {least} and {most}"),
            ));
        }
        Ok(Some(value))
    }

    /// The value of a setting that has a default or must be given.
    pub(super) fn get<T>(&self, setting: &Setting) -> Result<T, ConfigError>
    where
        T: FromStr<Err: fmt::Display> + PartialOrd,
    {
        self.find(setting)?.ok_or(ConfigError::Missing(*setting))
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
        let Some(known) = SETTINGS.iter().find(|known| known.name == key) else {
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
                        "expected a string or a whole number, found a {}",
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
    SETTINGS
        .iter()
        .map(|known| known.name)
        .max_by(|a, b| likeness(a).total_cmp(&likeness(b)))
        .unwrap_or("data_dir")
}
