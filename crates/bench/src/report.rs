//! What was measured: figures, notes and throughput over time. It is printed as it
//! comes, and written to files at the end.

mod json;
mod markdown;
mod plot;
mod terminal;

#[cfg(test)]
mod tests;

use crate::stats::{Better, median};
use anyhow::{Context, Result};
use std::path::Path;

/// A side of a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Who {
    /// Stock MariaDB, or what else Xylem is compared with.
    Stock,
    /// The build of Xylem that is measured.
    Xylem,
    /// Another build of Xylem (`--against`).
    Before,
}

impl Who {
    /// All sides, in the order in which they are shown.
    pub const ALL: [Who; 3] = [Who::Stock, Who::Xylem, Who::Before];

    /// The name in tables and documents.
    pub fn name(self) -> &'static str {
        match self {
            Who::Stock => "stock",
            Who::Xylem => "xylem",
            Who::Before => "before",
        }
    }
}

/// What the machine itself needs for the work behind a figure, measured in the same run
/// with bare system calls.
#[derive(Clone, Debug, PartialEq)]
pub struct Limit {
    /// The system calls.
    pub of: String,
    /// In the unit of the figure.
    pub value: f64,
}

/// A measured figure.
#[derive(Clone, Debug)]
pub struct Figure {
    /// The part of the benchmark.
    pub part: &'static str,
    /// What was measured, without the unit.
    pub name: String,
    /// The unit of all values.
    pub unit: &'static str,
    /// Whether more is better.
    pub better: Better,
    /// The values of each side, turn by turn.
    pub sides: Vec<(Who, Vec<f64>)>,
    /// What bounds Xylem's value.
    pub limit: Option<Limit>,
    /// A remark, such as the components of Xylem's value.
    pub remark: Option<String>,
    /// The name of the figure above, if this one explains it instead of being a result
    /// itself.
    pub detail_of: Option<String>,
}

impl Figure {
    /// A figure without a limit.
    pub fn new(part: &'static str, name: impl Into<String>, unit: &'static str) -> Figure {
        Figure {
            part,
            name: name.into(),
            unit,
            better: Better::Lower,
            sides: Vec::new(),
            limit: None,
            remark: None,
            detail_of: None,
        }
    }

    /// The same figure, where more is better.
    pub fn higher(mut self) -> Figure {
        self.better = Better::Higher;
        self
    }

    /// The same figure, shown below the one that it explains.
    pub fn detail_of(mut self, name: impl Into<String>) -> Figure {
        self.detail_of = Some(name.into());
        self
    }

    /// The same figure with values of a side.
    pub fn side(mut self, who: Who, values: Vec<f64>) -> Figure {
        self.sides.push((who, values));
        self
    }

    /// The same figure with values of all sides.
    pub fn sides(mut self, sides: Vec<(Who, Vec<f64>)>) -> Figure {
        self.sides = sides;
        self
    }

    /// The same figure with a limit.
    pub fn limit(mut self, of: impl Into<String>, value: f64) -> Figure {
        let of = of.into();
        self.limit = Some(Limit { of, value });
        self
    }

    /// The same figure with a remark.
    pub fn remark(mut self, remark: impl Into<String>) -> Figure {
        self.remark = Some(remark.into());
        self
    }

    /// A side's median.
    pub fn value(&self, who: Who) -> Option<f64> {
        let (_, values) = self.sides.iter().find(|(side, _)| *side == who)?;
        Some(median(values)).filter(|value| value.is_finite())
    }

    /// Xylem in comparison with another side: 1 is equal, and more is better.
    pub fn ratio_to(&self, base: Who) -> Option<f64> {
        self.better
            .ratio(self.value(Who::Xylem)?, self.value(base)?)
    }

    /// How often the limit fits into Xylem's value: 1 is at the limit, 2 takes twice as
    /// long or does half as much.
    pub fn times_limit(&self) -> Option<f64> {
        let limit = self.limit.as_ref()?;
        self.better.ratio(limit.value, self.value(Who::Xylem)?)
    }

    /// The name where figures of several parts are shown together.
    fn name_with_part(&self) -> String {
        format!("{}: {}", self.part, self.name)
    }

    /// The name with the unit.
    fn title(&self) -> String {
        match self.unit {
            "" => self.name.clone(),
            unit => format!("{}, {unit}", self.name),
        }
    }
}

/// Throughput over time.
#[derive(Clone, Debug)]
pub struct Series {
    /// The load.
    pub name: String,
    /// The measured side.
    pub who: Who,
    /// Transactions per second, second by second.
    pub seconds: Vec<f64>,
}

/// Facts about the run: what was measured, and where.
#[derive(Clone, Debug, Default)]
pub struct Setting(pub Vec<(&'static str, String)>);

/// Everything that a run has measured.
#[derive(Debug)]
pub struct Report {
    setting: Setting,
    /// The sides of this run, which are the columns of the table.
    columns: Vec<Who>,
    figures: Vec<Figure>,
    series: Vec<Series>,
    notes: Vec<String>,
}

impl Report {
    /// Begins a report, and prints the head of the table.
    pub fn begin(setting: Setting, against: bool) -> Report {
        let columns = Who::ALL.into_iter();
        let columns = columns.filter(|&who| who != Who::Before || against);
        let report = Report {
            setting,
            columns: columns.collect(),
            figures: Vec::new(),
            series: Vec::new(),
            notes: Vec::new(),
        };
        print!("{}", terminal::heading(&report.columns));
        report
    }

    /// Adds a figure and prints it.
    pub fn figure(&mut self, figure: Figure) {
        println!("{}", terminal::line(&figure, &self.columns));
        self.figures.push(figure);
    }

    /// Adds a figure of Xylem in two cases and prints it, with the ratio of the second to
    /// the first.
    pub fn beside(
        &mut self,
        name: &str,
        unit: &str,
        better: Better,
        one: (&str, f64),
        other: (&str, f64),
    ) {
        let ratio = better.ratio(other.1, one.1).unwrap_or(f64::NAN);
        self.note(format!(
            "{name}, {unit}: {} {:.1}, {} {:.1}, ratio {ratio:.2}",
            one.0, one.1, other.0, other.1
        ));
    }

    /// Adds a line of text and prints it.
    pub fn note(&mut self, text: impl Into<String>) {
        let text = text.into();
        println!("{text}");
        self.notes.push(text);
    }

    /// Adds throughput over time.
    pub fn series(&mut self, series: Series) {
        self.series.push(series);
    }

    /// Writes the report as a JSON document.
    pub fn write_json(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(&json::document(self))?;
        std::fs::write(path, text + "\n")
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// Writes the report as a table in Markdown, with plots, into a directory.
    pub fn write_markdown(&self, dir: &Path) -> Result<()> {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
        let mut plots = Vec::new();
        let mut plot = |name: String, caption: String, svg: String| -> Result<()> {
            let path = dir.join(&name);
            std::fs::write(&path, svg)
                .with_context(|| format!("cannot write {}", path.display()))?;
            plots.push((name, caption));
            Ok(())
        };
        for (base, file) in [(Who::Stock, "ratios.svg"), (Who::Before, "before.svg")] {
            if let Some(svg) = plot::ratios(&self.figures, base)? {
                plot(file.to_owned(), plot::ratios_caption(base), svg)?;
            }
        }
        for (n, (name, all)) in self.series_by_name().into_iter().enumerate() {
            let svg = plot::throughput(name, &all)?;
            let caption = format!("{name}: transactions per second");
            plot(format!("throughput-{}.svg", n + 1), caption, svg)?;
        }
        let path = dir.join("results.md");
        std::fs::write(&path, markdown::document(self, &plots))
            .with_context(|| format!("cannot write {}", path.display()))
    }

    fn series_by_name(&self) -> Vec<(&str, Vec<&Series>)> {
        let mut groups: Vec<(&str, Vec<&Series>)> = Vec::new();
        for series in &self.series {
            match groups.iter_mut().find(|(name, _)| *name == series.name) {
                Some((_, group)) => group.push(series),
                None => groups.push((&series.name, vec![series])),
            }
        }
        groups
    }
}
