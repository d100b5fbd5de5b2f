//! All workloads in one drawing: a row for each, a mark for each server at its ratio to the baseline.

use std::error::Error;
use std::path::Path;

use plotters::chart::ChartBuilder;
use plotters::coord::combinators::IntoLogRange;
use plotters::element::{Circle, PathElement};
use plotters::style::text_anchor::HPos;
use plotters::style::{Color, IntoFont};

use super::{AXIS, Area, FAINT, GRID, INK, ROW, colour, failed, log_ticks, sheet, text};
use crate::compare::family;
use crate::compare::runs::{Measured, Runs};

/// Room for the names and descriptions of workloads.
const LEFT: u32 = 400;
/// Marks further out than this stand at the edge.
const FARTHEST: f64 = 30.0;
/// Height of a line of the legend, and entries in it.
const LEGEND: u32 = 22;
const PER_LINE: usize = 6;

/// Draws all; `false` if there is nothing to compare.
pub(super) fn draw(
    file: &Path,
    footer: &[String; 2],
    families: &[String],
    all: &[Measured],
) -> Result<bool, String> {
    let compared: Vec<&Measured> = all.iter().filter(|m| ratios(m).count() > 1).collect();
    if compared.is_empty() {
        return Ok(false);
    }
    let mut legend: Vec<&str> = vec!["StormSocket", "yardstick"];
    legend.extend(families.iter().map(String::as_str));
    legend.retain(|known| compared.iter().any(|m| ratios(m).any(|(run, _)| family(&run.name) == *known)));
    let lines = count(legend.len().div_ceil(PER_LINE)) * LEGEND;
    let draw_all = || {
        let height = lines + AXIS + ROW * count(compared.len()) + 10;
        let title = "What a message, connection or idle connection costs the server, as a ratio";
        let root = sheet(file, height, title, footer)?;
        let root = root.margin(super::HEADER, super::FOOTER, 0, 0);
        let (top, below) = root.split_vertically(lines);
        draw_legend(&top, families, &legend)?;
        draw_rows(&below, families, &compared)?;
        root.present()?;
        Ok(true)
    };
    draw_all().map_err(failed(file))
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn ratios(measured: &Measured) -> impl Iterator<Item = (&Runs, f64)> {
    measured.runs.iter().filter_map(|run| Some((run, measured.ratio(run)?.median)))
}

fn draw_legend(area: &Area<'_>, families: &[String], legend: &[&str]) -> Result<(), Box<dyn Error>> {
    for (index, name) in legend.iter().enumerate() {
        let x = 24 + 145 * i32::try_from(index % PER_LINE)?;
        let y = 10 + LEGEND.cast_signed() * i32::try_from(index / PER_LINE)?;
        area.draw(&Circle::new((x, y), 6, colour(families, of_family(name)).filled()))?;
        text(area, name, (x + 12, y), 13, INK, HPos::Left, *name == "StormSocket")?;
    }
    Ok(())
}

/// A name of this family, as [`colour`] knows it.
fn of_family(family: &str) -> &str {
    match family {
        "StormSocket" => "storm-",
        "yardstick" => "yardstick-",
        other => other,
    }
}

fn draw_rows(area: &Area<'_>, families: &[String], all: &[&Measured]) -> Result<(), Box<dyn Error>> {
    let rows = f64::from(count(all.len()));
    let every = || all.iter().flat_map(|measured| ratios(measured).map(|(_, ratio)| ratio));
    let low = every().fold(1.0, f64::min).max(1.0 / FARTHEST) / 1.15;
    let high = every().fold(1.5, f64::max).min(FARTHEST) * 1.15;
    let mut chart = ChartBuilder::on(area)
        .margin_top(6)
        .margin_right(30)
        .x_label_area_size(AXIS)
        .y_label_area_size(LEFT)
        .build_cartesian_2d((low..high).log_scale(), 0.0..rows)?;
    chart
        .configure_mesh()
        .disable_mesh()
        .disable_y_axis()
        .axis_style(FAINT)
        .x_labels(0)
        // One is written all the same.
        .x_label_formatter(&|_| String::new())
        .x_desc("server CPU (idle: memory) relative to the baseline, logarithmic; further left is cheaper")
        .label_style(("sans-serif", 12).into_font().color(&FAINT))
        .axis_desc_style(("sans-serif", 12).into_font().color(&FAINT))
        .draw()?;
    for tick in log_ticks(low, high) {
        chart.draw_series([PathElement::new(vec![(tick, 0.0), (tick, rows)], GRID.stroke_width(1))])?;
        let (x, y) = chart.backend_coord(&(tick, 0.0));
        let y = y - area.get_base_pixel().1 + 12;
        text(area, &format!("×{tick}"), (x, y), 12, FAINT, HPos::Center, false)?;
    }

    chart.draw_series([PathElement::new(vec![(1.0, 0.0), (1.0, rows)], INK.stroke_width(1))])?;
    for (index, measured) in all.iter().enumerate() {
        let middle = rows - f64::from(count(index)) - 0.5;
        let mut marks: Vec<_> = ratios(measured).collect();
        // Ours last, on top.
        marks.sort_by_key(|(run, _)| run.name.starts_with("storm-"));
        for (run, ratio) in marks {
            let size = if run.name.starts_with("storm-") { 7 } else { 5 };
            let style = colour(families, &run.name).mix(0.85).filled();
            let at = ratio.clamp(low, high);
            chart.draw_series([Circle::new((at, middle), size, style)])?;
        }
        let (left, y) = chart.backend_coord(&(low, middle));
        let y = y - area.get_base_pixel().1;
        text(area, measured.workload.name, (left - LEFT.cast_signed() + 16, y), 13, INK, HPos::Left, true)?;
        let describe = measured.workload.describe();
        text(area, &describe, (left - LEFT.cast_signed() + 110, y), 11, FAINT, HPos::Left, false)?;
    }
    Ok(())
}
