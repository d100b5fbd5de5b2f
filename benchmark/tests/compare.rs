//! The comparison, with real servers for a few tenths of a second each.

use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::Value;

const YARDSTICK_TCP: &str = env!("CARGO_BIN_EXE_yardstick-tcp");

fn compare(flags: &[&str]) -> Output {
    let short = ["--rounds", "2", "-z", "0.1"];
    let short = short.chunks(2).filter(|pair| !flags.contains(&pair[0])).flatten();
    Command::new(env!("CARGO_BIN_EXE_stormsocket-benchmark"))
        .args(["compare", "--warmup", "0.05", "--no-pin"])
        .args(short)
        .args(flags)
        .output()
        .unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A file or directory of this test, gone with it.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        Self(std::env::temp_dir().join(format!("stormsocket-{}-{name}", std::process::id())))
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn json(file: &Scratch) -> Value {
    serde_json::from_slice(&std::fs::read(&file.0).unwrap()).unwrap()
}

#[test]
fn nobody_has_to_read_what_is_printed() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let program = env!("CARGO_BIN_EXE_stormsocket-benchmark");
    let output = Command::new(program).arg("list").stdout(writer).output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}

#[test]
fn ratios_are_printed_and_written() {
    let file = Scratch::new("ratios.json");
    let again =
        format!("again@length={} --threads 1 -p {{port}}", env!("CARGO_BIN_EXE_yardstick-length-codec"));
    let servers = "yardstick-length,yardstick-length-send";
    let output = compare(&["len-m1000", "--servers", servers, "--server", &again, "--json", file.path()]);
    let text = stdout(&output);
    assert!(output.status.success(), "{text}{}", stderr(&output));
    assert!(text.contains("len-m1000: 100 clients, 1000 in flight, 32 B"), "{text}");
    assert!(stderr(&output).contains("1 workloads, 2 rounds, 6 runs: about"), "{}", stderr(&output));
    let json = json(&file);
    let servers = json["workloads"][0]["servers"].as_array().unwrap();
    assert_eq!(servers.len(), 3);
    assert_eq!(servers[0]["ratio"]["median"], 1.0);
    assert!(servers[2]["ratio"]["median"].as_f64().unwrap() > 0.0);
    assert_eq!(servers[0]["runs"].as_array().unwrap().len(), 2);
    assert!(json["machine"]["rustc"].as_str().unwrap().starts_with("rustc "));
}

#[test]
fn drawings_and_a_page_are_written() {
    let (drawings, page, raw) = (Scratch::new("drawings"), Scratch::new("page.md"), Scratch::new("raw.json"));
    let flags =
        ["ws-m16", "ws-open", "--servers", "storm-ws,yardstick-ws", "--rounds", "1", "--note", "By hand."];
    let outputs = ["--svg", drawings.path(), "--report", page.path(), "--json", raw.path()];
    let output = compare(&[&flags[..], &outputs].concat());
    assert!(output.status.success(), "{}{}", stdout(&output), stderr(&output));
    for file in ["overview.svg", "websocket.svg", "latency.svg"] {
        let svg = std::fs::read_to_string(drawings.0.join(file)).unwrap();
        assert!(svg.starts_with("<svg") && svg.contains("storm") | svg.contains("Storm"), "{file}");
    }
    let text = std::fs::read_to_string(&page.0).unwrap();
    for said in [
        "cores, Linux",
        "rustc 1.",
        "tokio 1.",
        "By hand.",
        "| `ws-m16`: 100 clients",
        "| StormSocket |",
        "p50/p99",
    ] {
        assert!(text.contains(said), "{said}: {text}");
    }
    // The same again from what was written.
    let again = Scratch::new("again.md");
    let shown = Command::new(env!("CARGO_BIN_EXE_stormsocket-benchmark"))
        .args(["show", raw.path(), "--report", again.path()])
        .output()
        .unwrap();
    assert!(shown.status.success(), "{}", stderr(&shown));
    assert_eq!(stdout(&shown), stdout(&output));
    assert_eq!(std::fs::read_to_string(&again.0).unwrap(), text);
}

#[test]
fn a_server_that_fails_is_said_and_the_others_go_on() {
    // It answers bytes as they come: right for `raw`, not for `ws`.
    let wrong = format!("wrong@ws={YARDSTICK_TCP} --threads 1 -p {{port}}");
    let flags =
        ["ws-m16", "--servers", "yardstick-ws", "--server", &wrong, "--server", "gone@ws=false {port}"];
    let output = compare(&flags);
    let text = stdout(&output);
    assert_eq!(output.status.code(), Some(1));
    assert!(text.contains("wrong: no result") && text.contains("gone: no result"), "{text}");
    assert!(text.contains("yardstick-ws"));
}

#[test]
fn a_server_that_dies_under_load_has_no_result() {
    let file = Scratch::new("dies.json");
    let dies = format!("dies@raw=timeout --signal=KILL 0.4 {YARDSTICK_TCP} --threads 1 -p {{port}}");
    let flags = ["tcp-m16", "-z", "2", "--rounds", "1", "--servers", "yardstick-tcp", "--server", &dies];
    let output = compare(&[&flags[..], &["--json", file.path()]].concat());
    let text = stdout(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("dies: no result"), "{text}");
    let json = json(&file);
    let servers = json["workloads"][0]["servers"].as_array().unwrap();
    assert!(servers[0]["value"]["median"].as_f64().unwrap() > 0.0);
    assert_eq!((&servers[1]["value"], &servers[1]["rate"]), (&Value::Null, &Value::Null));
    assert!(servers[1]["failure"].is_string());
}

#[test]
fn every_kind_of_workload_gives_a_result() {
    let file = Scratch::new("kinds.json");
    let flags = ["tcp-c1", "tcp-open", "connect-tcp", "tcp-m1-t1", "tcp-m1-t2", "--servers", "yardstick-tcp"];
    let output = compare(&[&flags[..], &["--rounds", "1", "--json", file.path()]].concat());
    assert!(output.status.success(), "{}{}", stdout(&output), stderr(&output));
    let json = json(&file);
    let workloads = json["workloads"].as_array().unwrap();
    assert_eq!(workloads.len(), 5);
    for workload in workloads {
        assert!(workload["servers"][0]["rate"]["median"].as_f64().unwrap() > 0.0, "{workload:#}");
    }
    for latency in &workloads[..2] {
        assert!(latency["servers"][0]["latency_ns"]["p99.9"]["median"].as_f64().unwrap() > 0.0);
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_second_thread_is_compared_with_the_first() {
    let (file, page) = (Scratch::new("pair.json"), Scratch::new("pair.md"));
    let flags = ["burst-deflate-m16-t1", "burst-deflate-m16-t2", "--servers", "storm-ws,yardstick-ws"];
    let output = compare(&[&flags[..], &["--json", file.path(), "--report", page.path()]].concat());
    let text = stdout(&output);
    assert!(output.status.success(), "{text}{}", stderr(&output));
    assert!(text.contains("burst-deflate-m16-t2 over burst-deflate-m16-t1, in the same round"), "{text}");
    let json = json(&file);
    let servers = json["scaling"][0]["servers"].as_array().unwrap();
    assert_eq!(servers.len(), 2);
    for server in servers {
        assert!(server["rate"]["median"].as_f64().unwrap() > 0.2, "{server:#}");
    }
    let page = std::fs::read_to_string(&page.0).unwrap();
    assert!(page.contains("Rate with two server threads over the rate with one."), "{page}");
}

#[test]
fn servers_are_told_to_speak_tls_and_to_compress() {
    let file = Scratch::new("secure.json");
    let servers = "storm-tcp,storm-ws,yardstick-tls,yardstick-ws";
    let flags = ["tls-m16", "wss-m16", "connect-tls", "deflate-m16", "-z", "0.5", "--json", file.path()];
    let output = compare(&[&flags[..], &["--servers", servers, "--rounds", "1"]].concat());
    assert!(output.status.success(), "{}{}", stdout(&output), stderr(&output));
    let json = json(&file);
    let servers = |at: usize| json["workloads"][at]["servers"].as_array().unwrap().len();
    assert_eq!([servers(0), servers(1), servers(2), servers(3)], [2, 2, 2, 2]);
    for run in json["workloads"].as_array().unwrap().iter().flat_map(|w| w["servers"].as_array().unwrap()) {
        assert!(run["rate"]["median"].as_f64().unwrap() > 0.0, "{run:#}");
    }
}
