//! Latency: a panel for each workload, a row for each server, a mark for each percentile on an axis of logarithms.

use std::error::Error;
use std::path::Path;

use plotters::chart::ChartBuilder;
use plotters::coord::combinators::IntoLogRange;
use plotters::element::{Circle, PathElement};
use plotters::style::text_anchor::HPos;
use plotters::style::{Color, IntoFont, RGBAColor, RGBColor};

use super::{
    AXIS, Area, FAINT, GRID, INK, NAMES, RIGHT, ROW, TITLE, colour, failed, log_ticks, sheet, text,
    with_whiskers,
};
use crate::compare::runs::{LATENCIES, Measured, Spread};
use crate::compare::workload::Group;

/// Room for the legend.
const LEGEND: u32 = 24;

/// One server: its percentiles in microseconds.
struct Row<'a> {
    name: &'a str,
    percentiles: [Spread; 3],
}

/// Draws the group; `false` if there is nothing to draw.
pub(super) fn draw(
    file: &Path,
    group: Group,
    footer: &[String; 2],
    families: &[String],
    all: &[&Measured],
) -> Result<bool, String> {
    let panels: Vec<_> = all.iter().map(|m| (*m, rows(m))).filter(|(_, rows)| !rows.is_empty()).collect();
    if panels.is_empty() {
        return Ok(false);
    }
    let height = |rows: &[Row<'_>]| TITLE + AXIS + count(rows.len()) * ROW;
    let draw_all = || {
        let total = panels.iter().map(|(_, rows)| height(rows)).sum::<u32>() + LEGEND;
        let root = sheet(file, total, group.title, &with_whiskers(footer))?;
        let root = root.margin(super::HEADER, super::FOOTER, 0, 0);
        let (top, mut root) = root.split_vertically(LEGEND);
        legend(&top)?;
        for (measured, rows) in &panels {
            let (this, rest) = root.split_vertically(height(rows));
            draw_panel(&this, families, measured, rows)?;
            root = rest;
        }
        root.present()?;
        Ok(true)
    };
    draw_all().map_err(failed(file))
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// The servers with percentiles, the one with the lowest p99 first.
fn rows(measured: &Measured) -> Vec<Row<'_>> {
    let micros = |s: Spread| Spread { median: s.median / 1e3, min: s.min / 1e3, max: s.max / 1e3 };
    let row = |run: &'_ crate::compare::runs::Runs| {
        let [a, b, c] = LATENCIES.map(|(_, key)| run.spread(key).map(micros));
        Some([a?, b?, c?])
    };
    let mut rows: Vec<_> = measured
        .runs
        .iter()
        .filter_map(|run| Some(Row { name: &run.name, percentiles: row(run)? }))
        .collect();
    rows.sort_by(|a, b| a.percentiles[1].median.total_cmp(&b.percentiles[1].median));
    rows
}

/// The further out a percentile, the fainter its mark.
fn shade(colour: RGBColor, percentile: usize) -> RGBAColor {
    colour.mix([1.0, 0.6, 0.3][percentile])
}

fn legend(area: &Area<'_>) -> Result<(), Box<dyn Error>> {
    for (index, (name, _)) in LATENCIES.iter().enumerate() {
        let x = NAMES.cast_signed() + 10 + 80 * i32::try_from(index)?;
        area.draw(&Circle::new((x, 10), 6, shade(INK, index).filled()))?;
        text(area, name, (x + 12, 10), 13, INK, HPos::Left, false)?;
    }
    Ok(())
}

fn draw_panel(
    area: &Area<'_>,
    families: &[String],
    measured: &Measured,
    rows: &[Row<'_>],
) -> Result<(), Box<dyn Error>> {
    let height = f64::from(count(rows.len()));
    let all = || rows.iter().flat_map(|row| &row.percentiles);
    let low = all().map(|spread| spread.min).fold(f64::MAX, f64::min).max(0.1) / 1.3;
    let high = all().map(|spread| spread.max).fold(0.0, f64::max) * 1.3;
    text(area, measured.workload.name, (16, 14), 14, INK, HPos::Left, true)?;
    text(area, &measured.workload.describe(), (NAMES.cast_signed() + 6, 14), 13, FAINT, HPos::Left, false)?;

    let mut chart = ChartBuilder::on(area)
        .margin_top(TITLE)
        .margin_right(RIGHT)
        .x_label_area_size(AXIS)
        .y_label_area_size(NAMES)
        .build_cartesian_2d((low..high).log_scale(), 0.0..height)?;
    chart
        .configure_mesh()
        .disable_mesh()
        .disable_y_axis()
        .axis_style(FAINT)
        .x_labels(0)
        // One is written all the same.
        .x_label_formatter(&|_| String::new())
        .x_desc("latency, µs (logarithmic); further left is better")
        .label_style(("sans-serif", 12).into_font().color(&FAINT))
        .axis_desc_style(("sans-serif", 12).into_font().color(&FAINT))
        .draw()?;

    for tick in log_ticks(low, high) {
        chart.draw_series([PathElement::new(vec![(tick, 0.0), (tick, height)], GRID.stroke_width(1))])?;
        let (x, y) = chart.backend_coord(&(tick, 0.0));
        let y = y - area.get_base_pixel().1 + 12;
        text(area, &format!("{tick}"), (x, y), 12, FAINT, HPos::Center, false)?;
    }

    for (index, row) in rows.iter().enumerate() {
        let middle = height - f64::from(count(index)) - 0.5;
        let colour = colour(families, row.name);
        let ours = row.name.starts_with("storm-");
        for (percentile, spread) in row.percentiles.iter().enumerate() {
            let line = vec![(spread.min, middle), (spread.max, middle)];
            chart.draw_series([PathElement::new(line, INK.mix(0.5).stroke_width(1))])?;
            let mark = Circle::new((spread.median, middle), 6, shade(colour, percentile).filled());
            chart.draw_series([mark])?;
        }
        let (left, y) = chart.backend_coord(&(low, middle));
        let (right, _) = chart.backend_coord(&(high, middle));
        let y = y - area.get_base_pixel().1;
        text(area, row.name, (left - 8, y), 13, INK, HPos::Right, ours)?;
        let values = row.percentiles.map(|spread| format!("{:.0}", spread.median)).join(" / ");
        text(area, &values, (right + 8, y), 12, INK, HPos::Left, ours)?;
    }
    Ok(())
}
