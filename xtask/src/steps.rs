//! Named steps with progress: shows the running step, its duration, and the end of its
//! output when it fails.

use anyhow::{Context, Result, bail};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use std::collections::VecDeque;
use std::io::{BufRead, BufReader, IsTerminal, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

/// The progress lines of all steps. Steps may run in parallel, each with its own line.
static BARS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// Lines of output shown when a step fails.
const TAIL_LINES: usize = 40;

/// The cargo that runs this program.
pub fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Runs `command` as the step `name`. The output goes to `log`; a terminal shows its
/// newest line. An error contains the end of the output.
pub fn run(name: &str, command: &mut Command, log: &Path) -> Result<()> {
    if let Some(dir) = log.parent() {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    }
    let mut file =
        std::fs::File::create(log).with_context(|| format!("cannot create {}", log.display()))?;
    let (reader, writer) = std::io::pipe().context("cannot make a pipe")?;
    let started = Instant::now();
    let terminal = std::io::stderr().is_terminal();
    let bar = if terminal {
        BARS.add(ProgressBar::new_spinner())
    } else {
        ProgressBar::hidden()
    };
    bar.set_style(
        ProgressStyle::with_template("{spinner} {prefix} {elapsed} {wide_msg:.dim}")
            .context("progress template")?,
    );
    bar.set_prefix(name.to_owned());
    bar.enable_steady_tick(Duration::from_millis(100));
    if !terminal {
        eprintln!("{name} ...");
    }

    let mut child = command
        .stdin(Stdio::null())
        .stdout(writer.try_clone().context("cannot make a pipe")?)
        .stderr(writer)
        .spawn()
        .with_context(|| format!("{name}: cannot run {}", command.get_program().display()))?;
    // `command` keeps writing ends of the pipe. They must be closed, or the reader below
    // would never see the end.
    command.stdout(Stdio::null()).stderr(Stdio::null());

    let mut tail = VecDeque::new();
    for line in BufReader::new(reader).split(b'\n') {
        let line = line.context("cannot read the command's output")?;
        file.write_all(&line)?;
        file.write_all(b"\n")?;
        let line = String::from_utf8_lossy(&line).trim_end().to_owned();
        bar.set_message(line.clone());
        if tail.len() == TAIL_LINES {
            tail.pop_front();
        }
        tail.push_back(line);
    }
    let status = child.wait()?;
    bar.finish_and_clear();
    if !status.success() {
        let tail: Vec<String> = tail.into();
        bail!(
            "{name} failed ({status}); full output in {}\n{}",
            log.display(),
            tail.join("\n")
        );
    }
    let took = format!("{name}: {:.1} s", started.elapsed().as_secs_f64());
    BARS.suspend(|| eprintln!("{took}"));
    Ok(())
}

/// Runs `command` and returns what it prints.
pub fn output(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let out = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {program}"))?;
    if !out.status.success() {
        bail!(
            "{program} failed ({}): {}",
            out.status,
            String::from_utf8_lossy(&out.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}
