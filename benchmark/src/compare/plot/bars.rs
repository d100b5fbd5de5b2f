//! What a message costs: a panel for each workload, a bar for each server, the cheapest first.

use std::error::Error;
use std::path::Path;

use plotters::chart::ChartBuilder;
use plotters::element::{PathElement, Rectangle};
use plotters::style::text_anchor::HPos;
use plotters::style::{Color, IntoFont};

use super::{
    AXIS, Area, FAINT, GRID, INK, NAMES, RIGHT, ROW, TITLE, WIDTH, colour, failed, sheet, text, with_whiskers,
};
use crate::compare::runs::{Measured, Spread};
use crate::compare::workload::Group;
use crate::report::{grouped_f, nanos};

/// Bars longer than this many times the middle one are cut, or one slow server would make the others look alike.
const LONGEST: f64 = 2.5;

/// Height of a line below the bars.
const NOTE: u32 = 16;

/// One bar.
struct Bar<'a> {
    name: &'a str,
    spread: Spread,
    ratio: Option<f64>,
}

/// Draws the group; `false` if there is nothing to draw.
pub(super) fn draw(
    file: &Path,
    group: Group,
    footer: &[String; 2],
    families: &[String],
    all: &[&Measured],
) -> Result<bool, String> {
    let panels: Vec<_> = all.iter().map(|m| (*m, bars(m))).filter(|(_, bars)| !bars.is_empty()).collect();
    if panels.is_empty() {
        return Ok(false);
    }
    let height = |(measured, bars): &(&Measured, Vec<Bar<'_>>)| {
        TITLE + AXIS + count(bars.len()) * ROW + count(failures(measured).len()) * NOTE
    };
    let sheet_and_panels = || {
        let mut root = sheet(file, panels.iter().map(height).sum(), group.title, &with_whiskers(footer))?;
        root = root.margin(super::HEADER, super::FOOTER, 0, 0);
        for panel in &panels {
            let (this, rest) = root.split_vertically(height(panel));
            draw_panel(&this, families, panel.0, &panel.1)?;
            root = rest;
        }
        root.present()?;
        Ok(true)
    };
    sheet_and_panels().map_err(failed(file))
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// The bars of a workload, the shortest first.
fn bars(measured: &Measured) -> Vec<Bar<'_>> {
    let (key, _) = measured.measure();
    let mut bars: Vec<_> = measured
        .runs
        .iter()
        .filter_map(|run| {
            let ratio = measured.ratio(run).map(|ratio| ratio.median);
            Some(Bar { name: &run.name, spread: run.spread(key)?, ratio })
        })
        .collect();
    bars.sort_by(|a, b| a.spread.median.total_cmp(&b.spread.median));
    bars
}

fn failures(measured: &Measured) -> Vec<String> {
    measured.notes().into_iter().filter(|note| note.contains("no result")).collect()
}

fn draw_panel(
    area: &Area<'_>,
    families: &[String],
    measured: &Measured,
    bars: &[Bar<'_>],
) -> Result<(), Box<dyn Error>> {
    let rows = f64::from(count(bars.len()));
    let (_, unit) = measured.measure();
    let middle = bars.get(bars.len() / 2).map_or(1.0, |bar| bar.spread.median);
    let longest = bars.iter().map(|bar| bar.spread.max).fold(0.0, f64::max);
    let end = (longest * 1.02).min(middle * LONGEST);
    text(area, measured.workload.name, (16, 14), 14, INK, HPos::Left, true)?;
    text(area, &measured.workload.describe(), (NAMES.cast_signed() + 6, 14), 13, FAINT, HPos::Left, false)?;

    let notes = failures(measured);
    let mut chart = ChartBuilder::on(area)
        .margin_top(TITLE)
        .margin_bottom(count(notes.len()) * NOTE)
        .margin_right(RIGHT)
        .set_left_and_bottom_label_area_size(AXIS)
        .y_label_area_size(NAMES)
        .build_cartesian_2d(0.0..end, 0.0..rows)?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .disable_y_axis()
        .light_line_style(plotters::style::TRANSPARENT)
        .bold_line_style(GRID)
        .axis_style(FAINT)
        .x_labels(7)
        .x_label_formatter(&|value| grouped_f(*value))
        .x_desc(format!("{}; shorter is better", unit_in_words(unit)))
        .label_style(("sans-serif", 12).into_font().color(&FAINT))
        .axis_desc_style(("sans-serif", 12).into_font().color(&FAINT))
        .draw()?;

    for (index, bar) in bars.iter().enumerate() {
        let (top, bottom) = (rows - f64::from(count(index)), rows - f64::from(count(index)) - 1.0);
        let middle = f64::midpoint(top, bottom);
        let Spread { median, min, max } = bar.spread;
        let fill = colour(families, bar.name);
        let ours = bar.name.starts_with("storm-");
        let solid = if ours { fill.mix(0.95) } else { fill.mix(0.55) };
        let shape = [(0.0, bottom + 0.18), (median.min(end), top - 0.18)];
        chart.draw_series([Rectangle::new(shape, solid.filled())])?;
        let whisker = |points: Vec<(f64, f64)>| PathElement::new(points, INK.stroke_width(1));
        let cap = |at: f64| whisker(vec![(at, middle - 0.14), (at, middle + 0.14)]);
        if max <= end {
            chart.draw_series([whisker(vec![(min, middle), (max, middle)]), cap(min), cap(max)])?;
        }
        let (left, y) = chart.backend_coord(&(0.0, middle));
        let (right, _) = chart.backend_coord(&(max.max(median).min(end), middle));
        // Coordinates of the drawing, while the area's begin at its own corner.
        let y = y - area.get_base_pixel().1;
        text(area, bar.name, (left - 8, y), 13, INK, HPos::Right, ours)?;
        let cut = if median > end { "» " } else { "" };
        let ratio = bar.ratio.map_or(String::new(), |ratio| format!("  ×{ratio:.2}"));
        let label = format!("{cut}{}{ratio}", nanos(median));
        let at = right.min((WIDTH - RIGHT).cast_signed());
        text(area, &label, (at + 7, y), 12, INK, HPos::Left, ours)?;
    }
    let below = (TITLE + AXIS + count(bars.len()) * ROW).cast_signed();
    for (index, note) in notes.iter().enumerate() {
        let at = below + (count(index) * NOTE).cast_signed() + 4;
        text(area, note, (NAMES.cast_signed(), at), 11, FAINT, HPos::Left, false)?;
    }
    Ok(())
}

fn unit_in_words(unit: &str) -> &str {
    match unit {
        "B/connection" => "bytes of server memory per idle connection",
        "CPU ns/connection" => "server CPU per connection, ns",
        _ => "server CPU per message, ns",
    }
}
