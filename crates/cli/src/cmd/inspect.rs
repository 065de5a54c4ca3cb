//! `xylem inspect …`: the inside of branches and files.

use crate::app::App;
use crate::args::inspect::InspectCommand;
use crate::failure::Failure;
use crate::inspect::{layer, layers, manifest, page, wal};
use crate::output;
use anyhow::Result;
use serde::Serialize;

/// Runs the command.
///
/// # Errors
/// When a file cannot be read, the server cannot be asked, or a layer is
/// damaged.
pub async fn run(app: &App, command: &InspectCommand) -> Result<()> {
    match command {
        InspectCommand::Page(args) => show(app, &page::report(app, args).await?, page::text),
        InspectCommand::Layers(args) => {
            show(app, &layers::report(app, &args.branch).await?, layers::text)
        }
        InspectCommand::Manifest(args) => {
            show(app, &manifest::report(&args.files)?, manifest::text)
        }
        InspectCommand::Layer(args) => {
            let report = layer::report(args)?;
            show(app, &report, layer::text)?;
            match report.faults.is_empty() {
                true => Ok(()),
                false => Err(Failure::new(
                    format!("{} is damaged", args.file.display()),
                    "restore the file from a backup of the store",
                )),
            }
        }
        InspectCommand::Wal(args) => show(app, &wal::report(app, args)?, wal::text),
    }
}

fn show<T: Serialize>(app: &App, report: &T, text: impl Fn(&T) -> String) -> Result<()> {
    match app.json {
        true => output::json(report),
        false => output::text_line(&text(report)),
    }
}
