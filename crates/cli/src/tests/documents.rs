//! The documents against the code: flags, and the files that they name.

use crate::args::Cli;
use clap::CommandFactory;
use std::collections::BTreeSet;
use std::path::Path;

const CLI: &str = include_str!("../../../../docs/cli.md");
const IMPORT: &str = include_str!("../../../../docs/import-export.md");
const GATEWAY: &str = include_str!("../../../../docs/gateway.md");
const API: &str = include_str!("../../../../docs/api.md");
const SERVER: &str = include_str!("../../../../docs/server.md");

/// The words between backquotes in `text`.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The flags in the first column of the tables of `book`: `--from` of `--from B`.
fn documented(book: &str) -> BTreeSet<String> {
    book.lines()
        .filter_map(|line| line.strip_prefix("| ")?.split(" | ").next())
        .flat_map(quoted)
        .flat_map(str::split_whitespace)
        .filter(|word| word.starts_with("--") && word.len() > 2)
        .map(str::to_owned)
        .collect()
}

/// The flags of `command` and its subcommands that `--help` shows.
fn flags(command: &clap::Command, found: &mut BTreeSet<String>) {
    let shown = command.get_arguments().filter(|arg| !arg.is_hide_set());
    found.extend(shown.filter_map(|arg| Some(format!("--{}", arg.get_long()?))));
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
        // Its settings have a table that is made of the code.
        if sub.get_name() != "server" {
            flags(sub, found);
        }
    }
}

#[test]
fn the_flags_are_those_of_the_documents() {
    let mut code = BTreeSet::new();
    flags(&Cli::command(), &mut code);
    code.insert("--restore-wal".to_owned());
    let mut book = documented(CLI);
    book.extend(documented(IMPORT));
    book.extend(documented(SERVER));
    book.extend(documented(GATEWAY));
    book.extend(documented(API));
    let missing: Vec<_> = code.difference(&book).collect();
    assert!(missing.is_empty(), "not documented: {missing:?}");
    let unknown: Vec<_> = book.difference(&code).collect();
    assert!(unknown.is_empty(), "documented only: {unknown:?}");
}

#[test]
fn the_files_that_the_documents_name_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut books = vec![root.join("ARCHITECTURE.md"), root.join("CONTRIBUTING.md")];
    for folder in ["docs", "docs/formats"] {
        for entry in std::fs::read_dir(root.join(folder)).unwrap() {
            let path = entry.unwrap().path();
            books.extend(path.extension().is_some_and(|e| e == "md").then_some(path));
        }
    }
    let mut named = 0;
    for book in books {
        let text = std::fs::read_to_string(&book).unwrap();
        for word in quoted(&text).filter(|word| word.contains("/src/")) {
            let path = word.strip_prefix("crates/").unwrap_or(word);
            let found = root.join("crates").join(path).exists() || root.join(word).exists();
            assert!(
                found,
                "{} names {word}, which does not exist",
                book.display()
            );
            named += 1;
        }
    }
    assert!(named > 30, "{named}");
}
