//! Plots, as SVG.

use super::{Figure, Series, Who};
use anyhow::Result;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

const WIDTH: u32 = 960;
/// Height of a plot of throughput.
const HEIGHT: u32 = 420;
/// Height of a bar with its gap.
const BAR: u32 = 22;
/// Height of the title and the axis of bars.
const FRAME: u32 = 80;
/// Width of the names of bars.
const NAMES: u32 = 400;
/// Bars show ratios from 1/8 to 8; longer ones are cut.
const DOUBLINGS_MAX: f64 = 3.0;

fn color(who: Who) -> RGBColor {
    match who {
        Who::Stock => RGBColor(120, 120, 120),
        Who::Xylem => RGBColor(0, 114, 178),
        Who::Before => RGBColor(230, 159, 0),
    }
}

/// Throughput over time, with a line for each side.
pub fn throughput(name: &str, all: &[&Series]) -> Result<String> {
    let mut out = String::new();
    {
        let area = SVGBackend::with_string(&mut out, (WIDTH, HEIGHT)).into_drawing_area();
        area.fill(&WHITE)?;
        let seconds = all.iter().map(|series| series.seconds.len()).max();
        let values = all.iter().flat_map(|series| series.seconds.iter().copied());
        let most = values.fold(1.0, f64::max);
        let mut chart = ChartBuilder::on(&area)
            .caption(name, ("sans-serif", 18))
            .margin(12)
            .x_label_area_size(40)
            .y_label_area_size(70)
            .build_cartesian_2d(0..seconds.unwrap_or(1).max(1), 0.0..most * 1.1)?;
        chart
            .configure_mesh()
            .x_desc("seconds")
            .y_desc("transactions per second")
            .y_label_formatter(&|value| format!("{value:.0}"))
            .light_line_style(WHITE)
            .draw()?;
        for series in all {
            let color = color(series.who);
            let points = series.seconds.iter().copied().enumerate();
            chart
                .draw_series(LineSeries::new(points, color.stroke_width(1)))?
                .label(series.who.name())
                .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 18, y)], color));
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::LowerRight)
            .background_style(WHITE.mix(0.8))
            .border_style(BLACK)
            .draw()?;
        area.present()?;
    }
    Ok(out)
}

/// What [`ratios`] shows.
pub fn ratios_caption(base: Who) -> String {
    let base = match base {
        Who::Stock => "stock MariaDB",
        _ => "the build before",
    };
    format!("Xylem in comparison with {base}: 1 is equal, more is better")
}

/// A bar for the ratio of each figure, except for those that explain others; `None` if
/// there is none.
pub fn ratios(figures: &[Figure], base: Who) -> Result<Option<String>> {
    let bars: Vec<(String, f64)> = figures
        .iter()
        .filter(|figure| figure.detail_of.is_none())
        .filter_map(|figure| Some((figure.name_with_part(), figure.ratio_to(base)?)))
        .collect();
    if bars.is_empty() {
        return Ok(None);
    }
    let mut out = String::new();
    {
        let height = FRAME + BAR * u32::try_from(bars.len())?;
        let area = SVGBackend::with_string(&mut out, (WIDTH, height)).into_drawing_area();
        area.fill(&WHITE)?;
        let rows = bars.len() as f64;
        let mut chart = ChartBuilder::on(&area)
            .caption(ratios_caption(base), ("sans-serif", 16))
            .margin(12)
            .margin_left(NAMES)
            .margin_right(70)
            .x_label_area_size(24)
            .build_cartesian_2d(-DOUBLINGS_MAX..DOUBLINGS_MAX, rows..0.0)?;
        chart
            .configure_mesh()
            .disable_y_mesh()
            .disable_y_axis()
            .x_labels(7)
            .x_label_formatter(&|doublings| axis(*doublings))
            .light_line_style(WHITE)
            .draw()?;
        chart.draw_series(bars.iter().zip(0u32..).map(|((_, ratio), row)| {
            let end = ratio.log2().clamp(-DOUBLINGS_MAX, DOUBLINGS_MAX);
            let row = f64::from(row);
            Rectangle::new(
                [(0.0, row + 0.15), (end, row + 0.85)],
                color(Who::Xylem).filled(),
            )
        }))?;
        let style = ("sans-serif", 12).into_text_style(&area);
        let left = style.pos(Pos::new(HPos::Right, VPos::Center));
        chart.draw_series(bars.iter().zip(0u32..).map(|((name, _), row)| {
            Text::new(
                name.clone(),
                (-DOUBLINGS_MAX * 1.05, f64::from(row) + 0.5),
                left.clone(),
            )
        }))?;
        let style = ("sans-serif", 12).into_text_style(&area);
        let right = style.pos(Pos::new(HPos::Left, VPos::Center));
        chart.draw_series(bars.iter().zip(0u32..).map(|((_, ratio), row)| {
            let at = (DOUBLINGS_MAX * 1.05, f64::from(row) + 0.5);
            Text::new(format!("{ratio:.2}"), at, right.clone())
        }))?;
        let one = [(0.0, 0.0), (0.0, rows)];
        chart.draw_series([PathElement::new(one, BLACK)])?;
        area.present()?;
    }
    Ok(Some(out))
}

fn axis(doublings: f64) -> String {
    if doublings < 0.0 {
        format!("1/{:.0}", (-doublings).exp2())
    } else {
        format!("{:.0}", doublings.exp2())
    }
}
