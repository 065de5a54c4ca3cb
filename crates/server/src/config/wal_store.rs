//! The setting `wal_store`.

use serde::{Deserialize, Serialize};

/// Where WALs are. It is fixed when a project is created.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WalStore {
    /// On the server's disk: a commit waits for an fsync.
    #[default]
    Local,
    /// In the object store: a commit waits for a PUT, and the loss of the server's
    /// disk loses no acknowledged commit.
    Object,
}

impl WalStore {
    /// The word that the configuration uses.
    pub fn as_str(self) -> &'static str {
        match self {
            WalStore::Local => "local",
            WalStore::Object => "object",
        }
    }
}

impl std::str::FromStr for WalStore {
    type Err = String;

    fn from_str(text: &str) -> Result<WalStore, String> {
        match text {
            "local" => Ok(WalStore::Local),
            "object" => Ok(WalStore::Object),
            _ => Err(format!("{text:?} is not a WAL store: use local or object")),
        }
    }
}
