//! The servers that the tests run on.

use anyhow::Result;
use clap::ValueEnum;
use std::fmt;
use std::str::FromStr;

/// The servers that the tests run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// Xylem's InnoDB on a page server: each restart removes the data directory.
    PageServer,
    /// Xylem's InnoDB without a page server.
    Off,
    /// MariaDB as Debian built it.
    Stock,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Mode::PageServer => "page-server",
            Mode::Off => "off",
            Mode::Stock => "stock",
        })
    }
}

impl FromStr for Mode {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Mode> {
        <Mode as ValueEnum>::from_str(text, false).map_err(anyhow::Error::msg)
    }
}
