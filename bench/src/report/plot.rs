//! The report as a picture: throughput and latency percentiles over time, two panels of one SVG.
//!
//! Text is SVG text, laid out by estimate: no font of this machine is read.

use std::time::Duration;

use plotters::backend::SVGBackend;
use plotters::chart::ChartBuilder;
use plotters::drawing::{DrawingArea, DrawingAreaErrorKind, IntoDrawingArea};
use plotters::prelude::{IntoLogRange, PathElement, SeriesLabelPosition};
use plotters::series::LineSeries;
use plotters::style::{BLACK, Color, IntoFont, RGBColor, WHITE};
use thiserror::Error;

use super::Report;
use crate::histogram::Percentiles;
use crate::progress::millis;
use crate::timeline::Row;

const SIZE: (u32, u32) = (960, 720);
const THROUGHPUT_HEIGHT: u32 = 330;
/// Shorter rows, the cut-off ends of a window, say nothing about a rate.
const ROW_MIN: Duration = Duration::from_millis(250);

type Pick = fn(&Percentiles) -> u64;

/// The lines of the latency panel.
const PERCENTILES: [(&str, RGBColor, Pick); 4] = [
    ("P50", RGBColor(31, 119, 180), |latency| latency.p50),
    ("P99", RGBColor(255, 127, 14), |latency| latency.p99),
    ("P99.9", RGBColor(214, 39, 40), |latency| latency.p999),
    ("max", RGBColor(127, 127, 127), |latency| latency.max),
];

/// The plot could not be drawn. It is drawn into memory, so the disk is not to blame.
#[derive(Debug, Error)]
#[error("cannot draw the plot: {0}")]
pub struct PlotError(String);

type Svg<'a> = SVGBackend<'a>;
type Area<'a> = DrawingArea<Svg<'a>, plotters::coord::Shift>;
type BackendError<'a> = DrawingAreaErrorKind<<Svg<'a> as plotters::backend::DrawingBackend>::ErrorType>;

impl From<BackendError<'_>> for PlotError {
    fn from(error: BackendError<'_>) -> Self {
        Self(error.to_string())
    }
}

/// The plot as an SVG document.
///
/// # Errors
/// The plotting library failed.
pub fn render(report: &Report) -> Result<String, PlotError> {
    let mut document = String::new();
    {
        let root = SVGBackend::with_string(&mut document, SIZE).into_drawing_area();
        root.fill(&WHITE)?;
        let (upper, lower) = root.split_vertically(THROUGHPUT_HEIGHT);
        let rows: Vec<&Row> = report.rows.iter().filter(|row| row.length(report.window) >= ROW_MIN).collect();
        throughput(&upper, report, &rows)?;
        latency(&lower, report, &rows)?;
        root.present()?;
    }
    Ok(document)
}

fn throughput(area: &Area<'_>, report: &Report, rows: &[&Row]) -> Result<(), PlotError> {
    let rate = |row: &Row| row.completed as f64 / row.length(report.window).as_secs_f64();
    let points: Vec<(f64, f64)> = rows.iter().map(|row| (middle(row, report.window), rate(row))).collect();
    let top = points.iter().map(|point| point.1).fold(1.0, f64::max) * 1.1;
    let caption = format!("{}: {:.0} requests/s", report.plan.load.name(), report.all.qps);
    let mut chart = ChartBuilder::on(area)
        .caption(caption, ("sans-serif", 20).into_font())
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(72)
        .build_cartesian_2d(0.0..report.window.as_secs_f64(), 0.0..top)?;
    chart
        .configure_mesh()
        .x_desc("seconds")
        .y_desc("requests/s")
        .y_label_formatter(&|value| format!("{value:.0}"))
        .draw()?;
    chart.draw_series(LineSeries::new(points, RGBColor(44, 160, 44).stroke_width(2)).point_size(2))?;
    Ok(())
}

fn latency(area: &Area<'_>, report: &Report, rows: &[&Row]) -> Result<(), PlotError> {
    // Seconds without a success have no latency: drawing them as zero would praise a standstill.
    let rows: Vec<&Row> = rows.iter().copied().filter(|row| row.completed > 0).collect();
    let lowest = rows.iter().map(|row| row.latency.p50).min().unwrap_or(1).max(1);
    let highest = rows.iter().map(|row| row.latency.max).max().unwrap_or(1).max(1);
    // Whole decades around the data; the scale is logarithmic.
    let bottom = 10_f64.powf(millis(lowest).log10().floor());
    let top = 10_f64.powf(millis(highest).log10().floor() + 1.0);
    let mut chart = ChartBuilder::on(area)
        .caption("latency, second by second", ("sans-serif", 20).into_font())
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(72)
        .build_cartesian_2d(0.0..report.window.as_secs_f64(), (bottom..top).log_scale())?;
    chart.configure_mesh().x_desc("seconds").y_desc("milliseconds").draw()?;
    for (name, color, pick) in PERCENTILES {
        let points: Vec<(f64, f64)> = rows
            .iter()
            .map(|row| (middle(row, report.window), millis(pick(&row.latency)).max(bottom)))
            .collect();
        chart
            .draw_series(LineSeries::new(points, color.stroke_width(2)).point_size(2))?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], color.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK)
        .draw()?;
    Ok(())
}

/// Where on the time axis a row is drawn: in the middle of its second.
fn middle(row: &Row, window: Duration) -> f64 {
    row.second as f64 + row.length(window).as_secs_f64() / 2.0
}
