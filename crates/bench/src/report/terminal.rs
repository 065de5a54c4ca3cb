//! The table on the terminal.

use super::{Figure, Who};
use std::fmt::Write;

/// Width of the names.
const NAME: usize = 50;

/// The head of the table.
pub fn heading(columns: &[Who]) -> String {
    let mut out = format!("{:<NAME$}", "");
    for who in columns {
        let _ = write!(out, " {:>10}", who.name());
    }
    for base in bases(columns) {
        let _ = write!(out, " {:>8}", format!("/{}", base.name()));
    }
    let _ = writeln!(out, " {:>10} {:>8}", "limit", "x limit");
    out + "/stock, /before: 1 is equal, more is better; x limit: 1 is at the limit of the machine, less is better\n"
}

/// The line of a figure.
pub fn line(figure: &Figure, columns: &[Who]) -> String {
    let indent = if figure.detail_of.is_some() { "  " } else { "" };
    let mut out = format!("{:<NAME$}", format!("{indent}{}", figure.title()));
    for &who in columns {
        let _ = write!(out, " {:>10}", number(figure.value(who)));
    }
    for base in bases(columns) {
        let _ = write!(out, " {:>8}", ratio(figure.ratio_to(base)));
    }
    let limit = figure.limit.as_ref();
    let _ = write!(
        out,
        " {:>10} {:>8}",
        number(limit.map(|limit| limit.value)),
        ratio(figure.times_limit())
    );
    let remarks = [limit.map(|limit| &limit.of), figure.remark.as_ref()];
    for remark in remarks.into_iter().flatten() {
        let _ = write!(out, "  {remark}");
    }
    out.trim_end().to_owned()
}

fn bases(columns: &[Who]) -> impl Iterator<Item = Who> {
    columns.iter().copied().filter(|&who| who != Who::Xylem)
}

/// A value with about four digits; nothing if there is none.
pub fn number(value: Option<f64>) -> String {
    match value {
        None => String::new(),
        Some(value) if value.abs() >= 1000.0 => thousands(value),
        Some(value) if value.abs() >= 100.0 => format!("{value:.0}"),
        Some(value) if value.abs() >= 10.0 => format!("{value:.1}"),
        Some(value) => format!("{value:.2}"),
    }
}

/// A ratio with two decimals; nothing if there is none.
pub fn ratio(value: Option<f64>) -> String {
    value.map_or(String::new(), |value| format!("{value:.2}"))
}

fn thousands(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut out = String::new();
    for (n, digit) in digits.chars().enumerate() {
        let left = digits.len() - n;
        if n > 0 && left.is_multiple_of(3) && !out.ends_with('-') {
            out.push(',');
        }
        out.push(digit);
    }
    out
}
