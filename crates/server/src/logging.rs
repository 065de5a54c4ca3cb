//! Sets up log lines on standard error.

use crate::config::{LogFormat, ServerConfig};
use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;

/// Sends log lines of a program without settings for them to standard error.
pub fn init_plain() {
    let lines = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new("info"))
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    let _ = lines.try_init();
}

/// Sends log lines to standard error, as the settings say. Has no effect if logging is
/// already set up in this process.
pub fn init(config: &ServerConfig) {
    // `config::load` has checked the filter.
    let filter = EnvFilter::try_new(&config.log_level).unwrap_or_else(|_| EnvFilter::new("info"));
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    let set = match config.log_format {
        LogFormat::Text => lines.try_init(),
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    };
    if set.is_err() {
        tracing::debug!("logging is already set up");
    }
}
