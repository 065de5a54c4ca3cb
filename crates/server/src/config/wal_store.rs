//! The two places where WALs can be.

use serde::{Deserialize, Serialize};

/// Where WALs are; fixed when a project is created.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WalStore {
    /// On the server's disk: a commit waits for an fsync.
    #[default]
    Local,
    /// In the object store: a commit waits for a PUT, and nothing that was
    /// acknowledged is lost with the server's disk.
    Object,
}

impl WalStore {
    /// In one word, as in the configuration.
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
            _ => Err(format!(
                "{text:?} is no place for WALs: use local or object"
            )),
        }
    }
}
