//! The pictures of a report, each an SVG of its own.

use std::fmt::Display;

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::coord::ranged1d::{Ranged, ValueFormatter};
use plotters::prelude::*;

const WIDTH: u32 = 980;
const TALL: u32 = 360;
const LOW: u32 = 230;

const INK: RGBColor = RGBColor(31, 41, 55);
const GRID: RGBColor = RGBColor(229, 231, 235);
const FAULT: RGBColor = RGBColor(220, 38, 38);
/// Lines and bars, in order.
const COLOURS: [RGBColor; 7] = [
    RGBColor(37, 99, 235),
    RGBColor(217, 119, 6),
    RGBColor(5, 150, 105),
    RGBColor(124, 58, 237),
    RGBColor(219, 39, 119),
    RGBColor(75, 85, 99),
    RGBColor(8, 145, 178),
];

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// A line: its name and its points. A point that isn't finite is a gap.
#[derive(Clone, Debug)]
pub(super) struct Line {
    pub(super) name: String,
    pub(super) points: Vec<(f64, f64)>,
}

/// A time in which something was broken.
#[derive(Clone, Debug)]
pub(super) struct Band {
    pub(super) name: String,
    pub(super) from: f64,
    pub(super) to: f64,
}

/// A bar and its parts.
#[derive(Clone, Debug)]
pub(super) struct Bar {
    pub(super) name: String,
    pub(super) parts: Vec<f64>,
}

/// A number with a letter for its thousands.
pub(super) fn short(number: f64) -> String {
    let (scaled, letter) = match number.abs() {
        size if size >= 1e6 => (number / 1e6, " M"),
        size if size >= 1e3 => (number / 1e3, " k"),
        _ => (number, ""),
    };
    let digits = usize::from(scaled.abs() < 10.0 && scaled.fract().abs() > 1e-9);
    format!("{scaled:.digits$}{letter}")
}

/// Milliseconds, with as many digits as matter.
fn millis(ms: f64) -> String {
    match ms {
        ms if ms >= 10.0 => format!("{ms:.0} ms"),
        ms if ms >= 1.0 => format!("{ms:.1} ms"),
        ms => format!("{ms:.2} ms"),
    }
}

fn failed(error: impl Display) -> anyhow::Error {
    anyhow!("drawing a picture: {error}")
}

fn draw(height: u32, paint: impl FnOnce(&Area<'_>) -> Result<()>) -> Result<String> {
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, (WIDTH, height)).into_drawing_area();
        area.fill(&WHITE).map_err(failed)?;
        paint(&area)?;
        area.present().map_err(failed)?;
    }
    Ok(text)
}

fn largest<'a>(values: impl Iterator<Item = &'a f64>) -> f64 {
    values.copied().filter(|value| value.is_finite()).fold(0.0, f64::max)
}

fn smallest<'a>(values: impl Iterator<Item = &'a f64>) -> f64 {
    values.copied().fold(f64::MAX, f64::min)
}

/// Something a second, over the seconds of a run.
pub(super) fn over_time(lines: &[Line], bands: &[Band]) -> Result<String> {
    let points = || lines.iter().flat_map(|line| &line.points);
    let (from, to) = (smallest(points().map(|(x, _)| x)).min(0.0), largest(points().map(|(x, _)| x)).max(0.1));
    // Above the line there is room for names.
    let top = largest(points().map(|(_, y)| y)).max(1.0) * 1.25;
    draw(TALL, |area| {
        let mut chart = framed(area).build_cartesian_2d(from..to, 0.0..top).map_err(failed)?;
        mesh(&mut chart, "seconds", "commits/s", &|x| format!("{x:.0}"), &|y| short(*y))?;
        bands_of(&mut chart, bands, 0.0, top)?;
        lines_of(&mut chart, lines)
    })
}

/// Latencies over the seconds of a run, in milliseconds, on a scale of powers of ten.
pub(super) fn latency_over_time(lines: &[Line], bands: &[Band]) -> Result<String> {
    let points = || lines.iter().flat_map(|line| &line.points);
    let (from, to) = (smallest(points().map(|(x, _)| x)).min(0.0), largest(points().map(|(x, _)| x)).max(0.1));
    let (low, high) = decades(points().map(|(_, y)| y));
    let high = high * 4.0;
    draw(LOW, |area| {
        let mut chart = framed(area).build_cartesian_2d(from..to, (low..high).log_scale()).map_err(failed)?;
        mesh(&mut chart, "seconds", "latency", &|x| format!("{x:.0}"), &|y| millis(*y))?;
        bands_of(&mut chart, bands, low, high)?;
        lines_of(&mut chart, lines)?;
        legend(&mut chart, SeriesLabelPosition::UpperRight)
    })
}

/// Latency by percentile: x is 1 / (1 - percentile), y in milliseconds, both on scales of powers of ten.
pub(super) fn by_percentile(lines: &[Line]) -> Result<String> {
    let points = || lines.iter().flat_map(|line| &line.points);
    let to = largest(points().map(|(x, _)| x)).max(100.0);
    let (low, high) = decades(points().map(|(_, y)| y));
    let percentile = |x: &f64| {
        let nines = x.log10().round();
        let digits = (nines - 2.0).max(0.0) as usize;
        if nines < 1.0 { "0 %".to_owned() } else { format!("{:.digits$} %", (1.0 - 1.0 / x) * 100.0) }
    };
    draw(TALL, |area| {
        let mut chart =
            framed(area).build_cartesian_2d((1.0..to).log_scale(), (low..high).log_scale()).map_err(failed)?;
        mesh(&mut chart, "percentile", "append latency", &percentile, &|y| millis(*y))?;
        lines_of(&mut chart, lines)?;
        legend(&mut chart, SeriesLabelPosition::LowerRight)
    })
}

/// Latency by throughput, with the points marked; `knee` is drawn as a ring.
pub(super) fn knee(lines: &[Line], knee: Option<(f64, f64)>) -> Result<String> {
    let points = || lines.iter().flat_map(|line| &line.points);
    let to = largest(points().map(|(x, _)| x)).max(1.0) * 1.05;
    let (low, high) = decades(points().map(|(_, y)| y));
    draw(TALL, |area| {
        let mut chart = framed(area).build_cartesian_2d(0.0..to, (low..high).log_scale()).map_err(failed)?;
        mesh(&mut chart, "commits/s", "append latency", &|x| short(*x), &|y| millis(*y))?;
        lines_of(&mut chart, lines)?;
        for (place, line) in lines.iter().enumerate() {
            let colour = COLOURS[place % COLOURS.len()];
            let dots = line.points.iter().map(|point| Circle::new(*point, 3, colour.filled()));
            chart.draw_series(dots).map_err(failed)?;
        }
        if let Some(at) = knee {
            let ring = Circle::new(at, 8, FAULT.stroke_width(2));
            chart.draw_series([ring]).map_err(failed)?;
            let label = Text::new("knee", (12, 4), ("sans-serif", 14).into_font().color(&FAULT));
            chart.draw_series([EmptyElement::at(at) + label]).map_err(failed)?;
        }
        legend(&mut chart, SeriesLabelPosition::LowerRight)
    })
}

/// Something by append calls in flight, the latter on a scale of powers of ten.
pub(super) fn by_load(line: &Line) -> Result<String> {
    let to = largest(line.points.iter().map(|(x, _)| x)).max(2.0);
    let top = largest(line.points.iter().map(|(_, y)| y)).max(1.0) * 1.08;
    draw(LOW, |area| {
        let mut chart = framed(area).build_cartesian_2d((1.0..to).log_scale(), 0.0..top).map_err(failed)?;
        mesh(&mut chart, "append calls in flight", &line.name, &|x| short(*x), &|y| short(*y))?;
        lines_of(&mut chart, std::slice::from_ref(line))
    })
}

/// Lying bars of stacked parts.
pub(super) fn bars(bars: &[Bar], names: &[&str], unit: &dyn Fn(f64) -> String) -> Result<String> {
    const ROW: u32 = 44;
    const LEFT: i32 = 250;
    const RIGHT: i32 = 110;
    let height = 36 + ROW * bars.len() as u32 + 8;
    let longest = bars.iter().map(|bar| bar.parts.iter().sum::<f64>()).fold(f64::MIN_POSITIVE, f64::max);
    let ink = |size: u32| ("sans-serif", size).into_font().color(&INK);
    draw(height, |area| {
        let mut x = LEFT;
        for (place, name) in names.iter().enumerate() {
            let colour = COLOURS[place % COLOURS.len()];
            area.draw(&Rectangle::new([(x, 10), (x + 12, 22)], colour.filled())).map_err(failed)?;
            area.draw(&Text::new((*name).to_owned(), (x + 18, 9), ink(14))).map_err(failed)?;
            x += 40 + 7 * name.len() as i32;
        }
        for (row, bar) in bars.iter().enumerate() {
            let top = 36 + (ROW * row as u32) as i32;
            area.draw(&Text::new(bar.name.clone(), (8, top + 10), ink(14))).map_err(failed)?;
            let scale = f64::from(WIDTH as i32 - LEFT - RIGHT) / longest;
            let mut from = 0.0;
            for (place, part) in bar.parts.iter().enumerate() {
                let (left, right) = (LEFT + (from * scale) as i32, LEFT + ((from + part) * scale) as i32);
                let colour = COLOURS[place % COLOURS.len()];
                area.draw(&Rectangle::new([(left, top), (right, top + 30)], colour.filled())).map_err(failed)?;
                from += part;
            }
            let end = LEFT + (from * scale) as i32 + 8;
            area.draw(&Text::new(unit(from), (end, top + 10), ink(14))).map_err(failed)?;
        }
        Ok(())
    })
}

fn decades<'a>(values: impl Iterator<Item = &'a f64> + Clone) -> (f64, f64) {
    let positive = values.filter(|value| value.is_finite() && **value > 0.0);
    let (low, high) = (smallest(positive.clone()), largest(positive));
    if low > high {
        return (0.1, 10.0);
    }
    let high = (high * 1.2).max(low * 10.0);
    (low * 0.8, high)
}

fn framed<'a, 'b>(area: &'a Area<'b>) -> ChartBuilder<'a, 'b, SVGBackend<'b>> {
    let mut builder = ChartBuilder::on(area);
    builder.margin(12).x_label_area_size(42).y_label_area_size(74);
    builder
}

type Chart<'a, X, Y> = ChartContext<'a, SVGBackend<'a>, Cartesian2d<X, Y>>;

fn mesh<X, Y>(
    chart: &mut Chart<'_, X, Y>,
    x: &str,
    y: &str,
    x_label: &dyn Fn(&f64) -> String,
    y_label: &dyn Fn(&f64) -> String,
) -> Result<()>
where
    X: Ranged<ValueType = f64> + ValueFormatter<f64>,
    Y: Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    let text = ("sans-serif", 14).into_font().color(&INK);
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(GRID)
        .axis_style(INK)
        .label_style(text.clone())
        .axis_desc_style(text)
        .x_desc(x)
        .y_desc(y)
        .y_labels(6)
        .x_label_formatter(&|value| x_label(value))
        .y_label_formatter(&|value| y_label(value))
        .draw()
        .map_err(failed)
}

fn lines_of<X, Y>(chart: &mut Chart<'_, X, Y>, lines: &[Line]) -> Result<()>
where
    X: Ranged<ValueType = f64>,
    Y: Ranged<ValueType = f64>,
{
    for (place, line) in lines.iter().enumerate() {
        let colour = COLOURS[place % COLOURS.len()];
        for (number, part) in line.points.split(|(_, y)| !y.is_finite()).enumerate() {
            let drawn = LineSeries::new(part.iter().copied(), colour.stroke_width(2));
            let drawn = chart.draw_series(drawn).map_err(failed)?;
            if number == 0 {
                drawn
                    .label(line.name.clone())
                    .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
            }
        }
    }
    Ok(())
}

fn bands_of<X, Y>(chart: &mut Chart<'_, X, Y>, bands: &[Band], low: f64, high: f64) -> Result<()>
where
    X: Ranged<ValueType = f64>,
    Y: Ranged<ValueType = f64>,
{
    for band in bands {
        let shade = Rectangle::new([(band.from, low), (band.to, high)], FAULT.mix(0.10).filled());
        chart.draw_series([shade]).map_err(failed)?;
        let mark = PathElement::new([(band.from, low), (band.from, high)], FAULT.stroke_width(1));
        chart.draw_series([mark]).map_err(failed)?;
        let label = Text::new(band.name.clone(), (4, 2), ("sans-serif", 13).into_font().color(&FAULT));
        chart.draw_series([EmptyElement::at((band.from, high)) + label]).map_err(failed)?;
    }
    Ok(())
}

fn legend<X, Y>(chart: &mut Chart<'_, X, Y>, position: SeriesLabelPosition) -> Result<()>
where
    X: Ranged<ValueType = f64>,
    Y: Ranged<ValueType = f64>,
{
    chart
        .configure_series_labels()
        .position(position)
        .background_style(WHITE.mix(0.85))
        .border_style(GRID)
        .label_font(("sans-serif", 14).into_font().color(&INK))
        .draw()
        .map_err(failed)
}
