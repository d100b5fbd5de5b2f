//! The results as SVG: a file for each group of workloads, and one over all of them.
//!
//! Owns: sizes, colours, what is common to all drawings.
//! In:   measured workloads.
//! Out:  files.
//! Not here: the numbers (`runs`).

mod bars;
mod latency;
mod overview;

use std::path::Path;

use plotters::backend::SVGBackend;
use plotters::coord::Shift;
use plotters::drawing::{DrawingArea, IntoDrawingArea};
use plotters::element::Text;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{Color, FontStyle, IntoFont, RGBColor, TextStyle, WHITE};

use crate::compare::family;
use crate::compare::results::Results;
use crate::compare::runs::{LATENCIES, Measured};
use crate::compare::workload::Group;

/// Width of every drawing.
const WIDTH: u32 = 900;
/// Room for the names of servers.
const NAMES: u32 = 170;
/// Room right of the plot, for values written behind bars.
const RIGHT: u32 = 130;
/// Height of a server's row.
const ROW: u32 = 24;
/// Room of a panel for its title, and for its axis with its description.
const TITLE: u32 = 36;
const AXIS: u32 = 40;
/// Room for the title of a drawing, and for what it was measured on.
const HEADER: u32 = 40;
const FOOTER: u32 = 44;

const INK: RGBColor = RGBColor(34, 34, 34);
const FAINT: RGBColor = RGBColor(110, 110, 110);
const GRID: RGBColor = RGBColor(222, 222, 222);

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Ours and the yardstick stand out; the others are told apart.
fn colour(families: &[String], name: &str) -> RGBColor {
    const OTHERS: [RGBColor; 8] = [
        RGBColor(31, 119, 180),
        RGBColor(148, 103, 189),
        RGBColor(44, 140, 90),
        RGBColor(140, 86, 75),
        RGBColor(200, 90, 160),
        RGBColor(23, 160, 175),
        RGBColor(150, 150, 30),
        RGBColor(90, 110, 140),
    ];
    match family(name) {
        "StormSocket" => RGBColor(224, 92, 20),
        "yardstick" => RGBColor(80, 80, 80),
        other => {
            let index = families.iter().position(|family| family == other).unwrap_or(0);
            OTHERS[index % OTHERS.len()]
        }
    }
}

/// The families other than ours and the yardstick, each once, in the order they ran.
fn families(all: &[Measured]) -> Vec<String> {
    let mut families: Vec<String> = Vec::new();
    for run in all.iter().flat_map(|measured| &measured.runs) {
        let family = family(&run.name);
        if !["StormSocket", "yardstick"].contains(&family) && !families.iter().any(|known| known == family) {
            families.push(family.to_owned());
        }
    }
    families
}

/// Writes the drawings of all workloads into this directory; gives the names of the files.
///
/// # Errors
/// A file cannot be written.
pub fn write(dir: &Path, results: &Results) -> Result<Vec<String>, String> {
    let Results { machine, settings, workloads: all } = results;
    let footer = [
        format!("Median of {} rounds.", settings.rounds),
        format!(
            "{}, {} cores, {}, {}, {}.",
            machine.cpu, machine.cores, machine.kernel, machine.rustc, machine.date
        ),
    ];
    let families = families(all);
    let mut files = Vec::new();
    let mut groups: Vec<Group> = all.iter().map(|measured| measured.workload.group).collect();
    groups.dedup();
    for group in groups {
        let of_group: Vec<&Measured> = all.iter().filter(|m| m.workload.group == group).collect();
        // A round trip and an open loop are about latency; everything else is about what a message costs.
        let is_latency = |m: &Measured| m.runs.iter().any(|run| run.spread(LATENCIES[0].1).is_some());
        let name = format!("{}.svg", group.name);
        let file = dir.join(&name);
        let drawn = if group.name == "latency" && of_group.iter().any(|m| is_latency(m)) {
            latency::draw(&file, group, &footer, &families, &of_group)
        } else {
            bars::draw(&file, group, &footer, &families, &of_group)
        };
        if drawn? {
            files.push(name);
        }
    }
    if overview::draw(&dir.join("overview.svg"), &footer, &families, all)? {
        files.insert(0, "overview.svg".into());
    }
    Ok(files)
}

/// What the marks of drawings with whiskers mean.
fn with_whiskers(footer: &[String; 2]) -> [String; 2] {
    [format!("{} Whiskers from the least to the most.", footer[0]), footer[1].clone()]
}

/// Where an axis of logarithms is marked: 1, 2 and 5, in every power of ten.
fn log_ticks(low: f64, high: f64) -> Vec<f64> {
    let powers = (-3..9).map(|power| 10_f64.powi(power));
    let ticks = powers.flat_map(|power| [1.0, 2.0, 5.0].map(|step| step * power));
    ticks.filter(|tick| (low..=high).contains(tick)).collect()
}

/// An error of the drawing library, with the file.
fn failed(file: &Path) -> impl Fn(Box<dyn std::error::Error>) -> String {
    move |error| format!("cannot draw {}: {error}", file.display())
}

/// A white sheet with a title and a line below, and what is left between them.
fn sheet<'a>(
    file: &'a Path,
    height: u32,
    title: &str,
    footer: &[String; 2],
) -> Result<Area<'a>, Box<dyn std::error::Error>> {
    let root = SVGBackend::new(file, (WIDTH, height + HEADER + FOOTER)).into_drawing_area();
    root.fill(&WHITE)?;
    text(&root, title, (16, 24), 19, INK, HPos::Left, true)?;
    let below = i32::try_from(height + HEADER)?;
    for (line, y) in footer.iter().zip([12, 28]) {
        text(&root, line, (16, below + y), 11, FAINT, HPos::Left, false)?;
    }
    Ok(root)
}

fn text(
    area: &Area<'_>,
    what: &str,
    at: (i32, i32),
    size: i32,
    colour: RGBColor,
    anchor: HPos,
    bold: bool,
) -> Result<(), Box<dyn std::error::Error>> {
    let weight = if bold { FontStyle::Bold } else { FontStyle::Normal };
    let colour = colour.to_rgba();
    let style = TextStyle::from(("sans-serif", size, weight).into_font())
        .color(&colour)
        .pos(Pos::new(anchor, VPos::Center));
    area.draw(&Text::new(what.to_owned(), at, style))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::results::tests::results;
    use crate::compare::runs::tests::{measured, runs};
    use serde_json::json;

    #[test]
    fn a_file_for_each_group_and_one_over_all() {
        let dir = std::env::temp_dir().join(format!("stormsocket-plot-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let mut open = runs("base", &[Some(10.0)]);
        open.reports[0].as_mut().unwrap()["latency_ns"] =
            json!({ "p50": 12_400, "p99": 99_000, "p99.9": 1_000_000 });
        let mut dead = runs("dead", &[None]);
        dead.failure = Some("gone".into());
        let all = vec![
            measured("ws-m1", vec![runs("base", &[Some(100.0)]), runs("storm-ws", &[Some(130.0)]), dead]),
            measured("ws-m16", vec![runs("base", &[Some(10.0)]), runs("storm-ws", &[Some(900.0)])]),
            measured("ws-open", vec![open]),
        ];
        let files = write(&dir, &results(all)).unwrap();
        assert_eq!(files, ["overview.svg", "websocket.svg", "latency.svg"]);
        let read = |name| std::fs::read_to_string(dir.join(name)).unwrap();
        let (overview, bars, latency) = (read("overview.svg"), read("websocket.svg"), read("latency.svg"));
        std::fs::remove_dir_all(&dir).unwrap();
        assert!(overview.contains("StormSocket") && overview.contains("ws-m16"));
        assert!(bars.contains("storm-ws") && bars.contains("100 clients, 16 in flight, 32 B"));
        assert!(bars.contains("dead: no result"), "failures are said");
        assert!(latency.contains("p99.9") && latency.contains("µs"));
    }

    #[test]
    fn logarithms_are_marked_at_round_numbers() {
        assert_eq!(log_ticks(0.3, 30.0), [0.5, 1.0, 2.0, 5.0, 10.0, 20.0]);
    }

    #[test]
    fn names_tell_whose_it_is() {
        assert_eq!(family("storm-ws"), "StormSocket");
        assert_eq!(family("yardstick-length"), "yardstick");
        assert_eq!(family("yardstick-length-send"), "yardstick-length-send");
        assert_eq!(family("yawc-send"), "yawc-send");
        let families =
            families(&[measured("ws-m1", vec![runs("yawc", &[]), runs("storm-ws", &[]), runs("yawc", &[])])]);
        assert_eq!(families, ["yawc"]);
    }
}
