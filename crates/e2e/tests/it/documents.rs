//! The documents against what they describe: the plugin's variables, and the
//! session in the README, command by command.

use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use tempfile::TempDir;
use xylem_e2e::Project;

/// The rows of the Markdown tables in `book` whose first cell is a name in
/// backquotes that begins with `prefix`: the name, and the other cells.
fn rows(book: &str, prefix: &str) -> BTreeMap<String, Vec<String>> {
    book.lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`'))
        .filter(|(name, _)| name.starts_with(prefix))
        .map(|(name, rest)| {
            let cells = rest.split('|').skip(1).map(|cell| cell.trim().to_owned());
            (name.to_owned(), cells.collect())
        })
        .collect()
}

/// `64 MiB` in bytes; other texts as they are.
fn plain(value: &str) -> String {
    match value.strip_suffix(" MiB").map(str::parse::<u64>) {
        Some(Ok(number)) => (number << 20).to_string(),
        _ => value.to_owned(),
    }
}

#[test]
fn the_plugins_variables_are_those_of_its_document() -> Result<()> {
    let book = include_str!("../../../../docs/innodb.md");
    let project = Project::up("16M")?;
    let found = project.sql(
        "SELECT LOWER(variable_name), IFNULL(default_value, ''), \
         IF(read_only = 'YES', 'no', 'yes') FROM information_schema.system_variables \
         WHERE variable_name LIKE 'innodb_page_server%'",
    )?;
    let found: BTreeMap<String, Vec<String>> = found
        .lines()
        .filter_map(|line| line.split_once('\t'))
        .map(|(name, rest)| {
            let cells = rest.split('\t').map(str::to_owned);
            (name.to_owned(), cells.collect())
        })
        .collect();
    let documented: BTreeMap<String, Vec<String>> = rows(book, "innodb_page_server")
        .into_iter()
        .map(|(name, cells)| (name, cells.iter().take(2).map(|cell| plain(cell)).collect()))
        .collect();
    assert_eq!(documented, found, "system variables: document, plugin");

    let found = project.sql("SHOW GLOBAL STATUS LIKE 'Innodb_page_server%'")?;
    let found: Vec<&str> = found
        .lines()
        .filter_map(|line| line.split('\t').next())
        .collect();
    let documented = rows(book, "Innodb_page_server");
    let documented: Vec<&str> = documented.keys().map(String::as_str).collect();
    let mut sorted = found.clone();
    sorted.sort_unstable();
    assert_eq!(documented, sorted, "status variables: document, plugin");
    Ok(())
}

/// A command of the README's session, and the lines that it prints there.
struct Step {
    command: String,
    prints: Vec<String>,
}

/// The indented block below the heading `## A session`.
fn session(readme: &str) -> Vec<Step> {
    let block = readme
        .split("## A session")
        .nth(1)
        .unwrap_or_default()
        .split("\n## ")
        .next()
        .unwrap_or_default();
    let mut steps: Vec<Step> = Vec::new();
    for line in block.lines().filter_map(|line| line.strip_prefix("    ")) {
        match (line.strip_prefix("$ "), steps.last_mut()) {
            (Some(command), _) => steps.push(Step {
                command: command.to_owned(),
                prints: Vec::new(),
            }),
            (None, Some(step)) => step.prints.push(line.trim_end().to_owned()),
            (None, None) => {}
        }
    }
    steps
}

/// Every run of digits as `0`, and with it what differs from one run of the
/// session to the next: times, LSNs, durations and ports.
fn shape(line: &str) -> String {
    let mut shape = String::new();
    let mut digits = false;
    for c in line.chars() {
        let digit = c.is_ascii_digit() || (digits && matches!(c, '.' | ':' | '-' | 'T' | 'Z'));
        if digit && !digits {
            shape.push('0');
        }
        if !digit {
            shape.push(c);
        }
        digits = digit;
    }
    // A duration may be told in either unit.
    shape.replace("0 ms", "0 s").trim_end().to_owned()
}

/// A shell in a directory of its own; what it started is stopped at the end.
struct Shell {
    dir: TempDir,
    path: String,
}

impl Shell {
    fn new() -> Result<Shell> {
        let home = std::env::var("XYLEM_HOME").context("XYLEM_HOME is not set")?;
        let path = std::env::var("PATH").unwrap_or_default();
        Ok(Shell {
            dir: tempfile::Builder::new().prefix("xylem-readme-").tempdir()?,
            path: format!("{home}/bin:{path}"),
        })
    }

    /// Runs a command; returns the lines that a person sees.
    fn run(&self, command: &str) -> Result<Vec<String>> {
        let out = Command::new("sh")
            .args(["-c", command])
            .current_dir(self.dir.path())
            .env("PATH", &self.path)
            .env_remove("XYLEM_DIR")
            .stdin(Stdio::null())
            .output()?;
        let seen = String::from_utf8([out.stdout, out.stderr].concat())?;
        ensure!(out.status.success(), "{command}: {seen}");
        Ok(seen.lines().map(str::to_owned).collect())
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        if let Err(error) = self.run("xylem down") {
            eprintln!("{error:#}");
        }
    }
}

#[test]
fn the_session_of_the_readme_is_real() -> Result<()> {
    let steps = session(include_str!("../../../../README.md"));
    ensure!(steps.len() >= 10, "the README has no session any more");
    let shell = Shell::new()?;
    let mut before = String::new();
    for Step { command, prints } in steps {
        let now = jiff::Timestamp::now().to_string();
        // The moment to go back to: just before the last command, a mistake.
        let command = match command.split_once(" --at '") {
            Some((start, rest)) => {
                let (_, rest) = rest.split_once('\'').context("a moment without an end")?;
                format!("{start} --at '{before}'{rest}")
            }
            None => command,
        };
        let printed = shell.run(&command)?;
        before = now;
        let printed: Vec<String> = printed.iter().map(|line| shape(line)).collect();
        for line in prints.iter().filter(|line| !line.is_empty()) {
            // A line that is too long for the README is cut.
            let (shown, cut) = match line.strip_suffix("...") {
                Some(start) => (shape(start), true),
                None => (shape(line), false),
            };
            let same = |printed: &String| *printed == shown || cut && printed.starts_with(&shown);
            ensure!(
                printed.iter().any(same),
                "{command}: the README shows\n{shown}\nand this is printed:\n{}",
                printed.join("\n")
            );
        }
    }
    Ok(())
}
