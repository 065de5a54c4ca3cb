//! Progress: on a terminal, or told to somebody else.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::fmt;
use std::io::IsTerminal;
use std::sync::Arc;
use std::time::Duration;

/// Takes the present work, in words.
#[derive(Clone)]
pub struct Listener(Arc<dyn Fn(&str) + Send + Sync>);

impl Listener {
    /// One that calls `told`.
    pub fn new(told: impl Fn(&str) + Send + Sync + 'static) -> Listener {
        Listener(Arc::new(told))
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener").finish_non_exhaustive()
    }
}

/// A line on stderr that shows the present work.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
    listener: Option<Listener>,
}

impl Progress {
    /// Shows progress if stderr is a terminal and `wanted`.
    pub fn new(wanted: bool) -> Progress {
        let bar = ProgressBar::new_spinner();
        if !wanted || !std::io::stderr().is_terminal() {
            bar.set_draw_target(ProgressDrawTarget::hidden());
            return Progress {
                bar,
                listener: None,
            };
        }
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(100));
        Progress {
            bar,
            listener: None,
        }
    }

    /// Tells it to `listener`, and shows nothing.
    pub fn told_to(listener: Listener) -> Progress {
        let mut progress = Progress::new(false);
        progress.listener = Some(listener);
        progress
    }

    /// Shows `what` as the present work.
    pub fn say(&self, what: String) {
        if let Some(Listener(told)) = &self.listener {
            told(&what);
        }
        self.bar.set_message(what);
    }

    /// Prints a line that stays, on stderr, terminal or not.
    pub fn note(&self, line: &str) {
        if let Some(Listener(told)) = &self.listener {
            told(line);
        }
        self.bar.suspend(|| eprintln!("{line}"));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
