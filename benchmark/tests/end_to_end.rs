//! Real servers and real load generators, for a few tenths of a second each.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Output, Stdio};
use std::thread;

use serde_json::Value;

/// A server that ends with the test.
struct Server(Child, String);

impl Server {
    fn start(program: &str, flags: &[&str]) -> Self {
        let mut child = Command::new(program)
            .args(["--port", "0", "--threads", "1"])
            .args(flags)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let port = line.trim().strip_prefix("listening on 127.0.0.1:").expect("the line of a ready server");
        Self(child, port.to_owned())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

const TCP_CLIENT: &str = env!("CARGO_BIN_EXE_tcp-echo-client");
const WS_CLIENT: &str = env!("CARGO_BIN_EXE_ws-echo-client");

fn load(program: &str, port: &str, flags: &[&str]) -> Output {
    load_for("0.2", program, port, flags)
}

fn load_for(seconds: &str, program: &str, port: &str, flags: &[&str]) -> Output {
    let mut command = Command::new(program);
    command.args(["--port", port, "--seconds", seconds, "--json"]).args(flags);
    command.output().unwrap()
}

fn result(output: &Output) -> Value {
    let report: Value = serde_json::from_slice(&output.stdout).expect("a report");
    assert!(output.status.success(), "{report:#}");
    assert_eq!((&report["errors"], &report["result"]), (&Value::from(0), &Value::from(true)));
    assert!(report["messages"].as_u64().unwrap() > 0);
    report
}

#[test]
fn tcp_yardstick_and_client_with_one_and_many_in_flight() {
    let server = Server::start(env!("CARGO_BIN_EXE_yardstick-tcp"), &[]);
    let pid = server.0.id().to_string();
    let report = result(&load(TCP_CLIENT, &server.1, &["-c", "5", "-m", "1", "--server-pid", &pid]));
    assert!(report["latency_ns"]["p50"].as_u64().unwrap() > 0);
    assert!(report["server_cpu_ns_per_message"].as_f64().unwrap() > 0.0);
    assert!(report["server_memory"].as_u64().unwrap() > 0);
    result(&load(TCP_CLIENT, &server.1, &["-c", "5", "-m", "1000"]));
    result(&load(TCP_CLIENT, &server.1, &["-c", "2", "-m", "3", "-s", "300000"]));
    result(&load(TCP_CLIENT, &server.1, &["-c", "2", "-m", "7", "--framer", "line"]));
    result(&load(TCP_CLIENT, &server.1, &["-c", "3", "--connect"]));
}

#[test]
fn length_yardstick_in_both_modes() {
    for mode in ["batched", "send"] {
        let server = Server::start(env!("CARGO_BIN_EXE_yardstick-length-codec"), &["--mode", mode]);
        result(&load(TCP_CLIENT, &server.1, &["-c", "5", "-m", "100", "--framer", "length"]));
    }
}

#[test]
fn ws_yardstick_echoes_every_size() {
    let server = Server::start(env!("CARGO_BIN_EXE_yardstick-ws"), &[]);
    for (in_flight, size) in [
        ("1", "1"),
        ("16", "125"),
        ("1000", "32"),
        ("16", "126"),
        ("16", "5000"),
        ("4", "65536"),
        ("2", "1048576"),
    ] {
        result(&load(WS_CLIENT, &server.1, &["-c", "4", "-m", in_flight, "-s", size]));
    }
    result(&load(WS_CLIENT, &server.1, &["-c", "4", "-m", "16", "--text"]));
    result(&load(WS_CLIENT, &server.1, &["-c", "4", "--connect"]));
    let pid = server.0.id().to_string();
    let report = result(&load(WS_CLIENT, &server.1, &["-c", "50", "--idle", "--server-pid", &pid]));
    assert_eq!(report["idle"]["connections"], 50);
}

#[test]
fn ws_broadcast_reaches_everyone() {
    let server = Server::start(env!("CARGO_BIN_EXE_yardstick-ws"), &["--broadcast"]);
    for in_flight in ["1", "16", "500"] {
        result(&load(WS_CLIENT, &server.1, &["-c", "30", "-m", in_flight, "--broadcast"]));
    }
}

/// A server that hands each connection to a function of its own.
fn misbehaving(serve: fn(TcpStream)) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    thread::spawn(move || {
        listener.incoming().for_each(|stream| drop(thread::spawn(move || serve(stream.unwrap()))));
    });
    port
}

fn failure(output: &Output, said: &str) {
    assert_eq!(output.status.code(), Some(1));
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(text.contains(said), "{text}");
    if let Ok(report) = serde_json::from_slice::<Value>(&output.stdout) {
        assert_eq!(report["result"], false);
        assert!(report["errors"].as_u64().unwrap() > 0);
    }
}

#[test]
fn a_server_that_changes_a_byte_is_an_error() {
    let port = misbehaving(|mut stream| {
        let mut buffer = [0; 4096];
        let mut total = 0;
        while let Ok(read @ 1..) = stream.read(&mut buffer) {
            if total < 20_000 && total + read >= 20_000 {
                buffer[read / 2] ^= 1;
            }
            total += read;
            if stream.write_all(&buffer[..read]).is_err() {
                return;
            }
        }
    });
    failure(&load(TCP_CLIENT, &port, &["-c", "3", "-m", "20"]), "differs from what was sent");
}

#[test]
fn a_server_that_closes_early_is_an_error() {
    let port = misbehaving(|mut stream| {
        let mut buffer = [0; 64];
        for _ in 0..10 {
            let Ok(read) = stream.read(&mut buffer) else {
                return;
            };
            let _ = stream.write_all(&buffer[..read]);
        }
    });
    failure(&load(TCP_CLIENT, &port, &["-c", "3", "-m", "1"]), "client");
}

#[test]
fn a_server_that_dies_under_load_is_an_error() {
    let mut server = Server::start(env!("CARGO_BIN_EXE_yardstick-tcp"), &[]);
    let port = server.1.clone();
    let load = thread::spawn(move || load_for("20", TCP_CLIENT, &port, &["-c", "3", "-m", "10"]));
    thread::sleep(std::time::Duration::from_millis(200));
    server.0.kill().unwrap();
    // It ends at once, not after 20 seconds.
    let start = std::time::Instant::now();
    failure(&load.join().unwrap(), "client");
    assert!(start.elapsed().as_secs() < 10);
}

#[test]
fn no_server_and_a_wrong_protocol_are_errors() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    for flags in [&["-c", "1"][..], &["-c", "1", "--connect"]] {
        failure(&load(TCP_CLIENT, &port, flags), "cannot connect");
    }
    let server = Server::start(env!("CARGO_BIN_EXE_yardstick-tcp"), &[]);
    failure(&load(WS_CLIENT, &server.1, &["-c", "1"]), "not HTTP");
}

#[test]
fn impossible_flags_exit_with_2_and_a_reason() {
    for (flags, said) in [(["-c", "0"], "1..="), (["-z", "never"], "not a number"), (["-s", "0"], "1..=")] {
        let output = Command::new(TCP_CLIENT).args(flags).output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        assert!(String::from_utf8_lossy(&output.stderr).contains(said));
    }
}

const COMPARE: &str = env!("CARGO_BIN_EXE_stormsocket-benchmark");

#[test]
fn compare_prints_ratios_and_writes_json() {
    let file = std::env::temp_dir().join(format!("stormsocket-compare-{}.json", std::process::id()));
    let again =
        format!("again@length={} --threads 1 -p {{port}}", env!("CARGO_BIN_EXE_yardstick-length-codec"));
    let output = Command::new(COMPARE)
        .args(["compare", "len-m1000", "--rounds", "2", "--warmup", "0.05", "-z", "0.1", "--no-pin"])
        .args(["--servers", "yardstick-length,yardstick-length-send", "--server", &again, "--json"])
        .arg(&file)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("len-m1000: 100 clients, 1000 in flight, 32 bytes"));
    let json: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    std::fs::remove_file(&file).unwrap();
    let servers = json["workloads"][0]["servers"].as_array().unwrap();
    assert_eq!(servers.len(), 3);
    assert_eq!(servers[0]["ratio"]["median"], 1.0);
    assert!(servers[2]["ratio"]["median"].as_f64().unwrap() > 0.0);
}

#[test]
fn compare_survives_a_server_that_fails_and_says_so() {
    // It answers bytes as they come: right for `raw`, not for `ws`.
    let wrong = format!("wrong@ws={} --threads 1 -p {{port}}", env!("CARGO_BIN_EXE_yardstick-tcp"));
    let output = Command::new(COMPARE)
        .args(["compare", "ws-m16", "--rounds", "2", "--warmup", "0", "-z", "0.1", "--no-pin"])
        .args(["--servers", "yardstick-ws", "--server", &wrong, "--server", "gone@ws=false {port}"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1));
    assert!(text.contains("wrong: no result") && text.contains("gone: no result"), "{text}");
    assert!(text.contains("yardstick-ws"));
}

#[test]
fn compare_refuses_what_it_cannot_do() {
    for (flags, said) in [
        (&["compare", "no-such"][..], "there are tcp-m1"),
        (&["compare", "--servers", "no-such"], "no server called"),
        (&["compare", "--servers", "yardstick-ws", "--baseline", "uws"], "none of the servers"),
        (&["compare", "ws-m1", "--servers", "yardstick-tcp"], "serves any of these"),
        (&["compare", "--server", "x=y"], "no {port}"),
        (&["compare", "--rounds", "0"], "1..=1000"),
    ] {
        let output = Command::new(COMPARE).args(flags).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && text.contains(said), "{flags:?}: {text}");
    }
}
