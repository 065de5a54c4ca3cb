//! Arguments of the commands on a whole project.

use crate::settings::{self, Ports, Settings};
use clap::Args;
use clap::builder::PossibleValuesParser;
use std::path::PathBuf;

/// `xylem up`
#[derive(Debug, Default, Args)]
pub struct UpArgs {
    /// Return when everything is ready, instead of running until Ctrl-C
    #[arg(long)]
    pub detach: bool,
    /// Ports of this start and later ones.
    #[command(flatten)]
    pub ports: Ports,
    /// Settings of this start and later ones.
    #[command(flatten)]
    pub settings: Settings,
    /// Rebuild missing WALs from their backups
    #[arg(long)]
    pub restore_wal: bool,
    /// Drop settings of earlier starts, so that their defaults hold again
    #[arg(
        long,
        value_name = "SETTING",
        value_delimiter = ',',
        value_parser = PossibleValuesParser::new(settings::names())
    )]
    pub unset: Vec<String>,
}

/// `xylem template`
#[derive(Debug, Args)]
pub struct TemplateArgs {
    /// Directory of the template; must not exist
    pub target: PathBuf,
}
