//! The report as a document in Markdown.

use super::terminal::{number, ratio};
use super::{Figure, Report, Who};
use std::fmt::Write;

/// The whole document. `plots` are files beside it, each with a caption.
pub fn document(report: &Report, plots: &[(String, String)]) -> String {
    let mut out = "# Results of `cargo xtask bench`\n\n".to_owned();
    for (name, value) in &report.setting.0 {
        let _ = writeln!(out, "- {name}: {value}");
    }
    out.push_str(
        "\nRatios compare Xylem with the named side: 1 is equal, and more is better. \
         *x limit* says how often the machine's own limit, measured in the same run, fits \
         into Xylem's figure: 1 is at the limit, and less is better.\n",
    );
    let mut parts: Vec<&str> = report.figures.iter().map(|figure| figure.part).collect();
    parts.dedup();
    for part in parts {
        let figures = report.figures.iter().filter(|figure| figure.part == part);
        table(&mut out, part, figures, &report.columns);
    }
    for (file, caption) in plots {
        let _ = writeln!(out, "\n![{caption}]({file})");
    }
    if !report.notes.is_empty() {
        out.push_str("\n## Notes\n\n");
        for note in &report.notes {
            let _ = writeln!(out, "- {}", escape(note.trim()));
        }
    }
    out
}

fn table<'a>(
    out: &mut String,
    part: &str,
    figures: impl Iterator<Item = &'a Figure>,
    columns: &[Who],
) {
    let bases: Vec<Who> = columns
        .iter()
        .copied()
        .filter(|&w| w != Who::Xylem)
        .collect();
    let mut head = vec![String::new()];
    head.extend(columns.iter().map(|who| who.name().to_owned()));
    head.extend(bases.iter().map(|base| format!("/ {}", base.name())));
    head.extend(["limit", "x limit", ""].map(str::to_owned));
    let _ = writeln!(out, "\n## {part}\n");
    row(out, &head);
    let rule: Vec<String> = (0..head.len())
        .map(|n| {
            if n == 0 || n + 1 == head.len() {
                "---"
            } else {
                "---:"
            }
            .to_owned()
        })
        .collect();
    row(out, &rule);
    for figure in figures {
        let indent = if figure.detail_of.is_some() {
            "&emsp;"
        } else {
            ""
        };
        let limit = figure.limit.as_ref();
        let mut cells = vec![format!("{indent}{}", escape(&figure.title()))];
        cells.extend(columns.iter().map(|&who| number(figure.value(who))));
        cells.extend(bases.iter().map(|&base| ratio(figure.ratio_to(base))));
        cells.push(number(limit.map(|limit| limit.value)));
        cells.push(ratio(figure.times_limit()));
        let remarks = [limit.map(|limit| &limit.of), figure.remark.as_ref()];
        let remarks: Vec<String> = remarks.into_iter().flatten().map(|r| escape(r)).collect();
        cells.push(remarks.join("; "));
        row(out, &cells);
    }
}

fn row(out: &mut String, cells: &[String]) {
    let _ = writeln!(out, "| {} |", cells.join(" | "));
}

fn escape(text: &str) -> String {
    text.replace('|', "\\|").replace('<', "&lt;")
}
