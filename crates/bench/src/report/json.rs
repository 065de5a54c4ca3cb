//! The report as a JSON document. Fields may be added; these stay.

use super::{Figure, Report, Series, Who};
use crate::stats::Better;
use serde::Serialize;
use std::collections::BTreeMap;

/// Version of the document's shape.
const VERSION: u32 = 1;

#[derive(Serialize)]
pub struct Document<'a> {
    version: u32,
    setting: BTreeMap<&'static str, &'a str>,
    figures: Vec<FigureDocument<'a>>,
    series: Vec<SeriesDocument<'a>>,
    notes: &'a [String],
}

#[derive(Serialize)]
struct FigureDocument<'a> {
    part: &'static str,
    name: &'a str,
    unit: &'static str,
    better: &'static str,
    detail_of: Option<&'a str>,
    sides: BTreeMap<&'static str, SideDocument<'a>>,
    ratio_to_stock: Option<f64>,
    ratio_to_before: Option<f64>,
    limit: Option<LimitDocument<'a>>,
    remark: Option<&'a str>,
}

#[derive(Serialize)]
struct SideDocument<'a> {
    median: Option<f64>,
    /// Turn by turn.
    values: &'a [f64],
}

#[derive(Serialize)]
struct LimitDocument<'a> {
    of: &'a str,
    value: f64,
    times: Option<f64>,
}

#[derive(Serialize)]
struct SeriesDocument<'a> {
    name: &'a str,
    side: &'static str,
    per_second: &'a [f64],
}

/// The whole document.
pub fn document(report: &Report) -> Document<'_> {
    let setting = report.setting.0.iter();
    Document {
        version: VERSION,
        setting: setting.map(|(name, value)| (*name, &**value)).collect(),
        figures: report.figures.iter().map(figure).collect(),
        series: report.series.iter().map(series).collect(),
        notes: &report.notes,
    }
}

fn figure(figure: &Figure) -> FigureDocument<'_> {
    FigureDocument {
        part: figure.part,
        name: &figure.name,
        unit: figure.unit,
        better: match figure.better {
            Better::Higher => "higher",
            Better::Lower => "lower",
        },
        detail_of: figure.detail_of.as_deref(),
        sides: figure
            .sides
            .iter()
            .map(|(who, values)| {
                let median = figure.value(*who);
                (who.name(), SideDocument { median, values })
            })
            .collect(),
        ratio_to_stock: figure.ratio_to(Who::Stock),
        ratio_to_before: figure.ratio_to(Who::Before),
        limit: figure.limit.as_ref().map(|limit| LimitDocument {
            of: &limit.of,
            value: limit.value,
            times: figure.times_limit(),
        }),
        remark: figure.remark.as_deref(),
    }
}

fn series(series: &Series) -> SeriesDocument<'_> {
    SeriesDocument {
        name: &series.name,
        side: series.who.name(),
        per_second: &series.seconds,
    }
}
