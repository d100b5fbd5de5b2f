//! Real servers and real load generators, for a few tenths of a second each.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

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

/// Something between the load and a server that tells when so many bytes of replies have passed. Where one side ends, so
/// does the other.
fn relay(port: &str, bytes: usize) -> (String, mpsc::Receiver<()>) {
    fn pass(mut from: TcpStream, mut to: TcpStream, mut passed: impl FnMut(usize)) {
        let mut buffer = [0; 4096];
        while let Ok(read @ 1..) = from.read(&mut buffer) {
            if to.write_all(&buffer[..read]).is_err() {
                break;
            }
            passed(read);
        }
        let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
    }
    let server = SocketAddr::from(([127, 0, 0, 1], port.parse().unwrap()));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let (enough, told) = mpsc::channel();
    let total = Arc::new(AtomicUsize::new(0));
    thread::spawn(move || {
        for near in listener.incoming() {
            let (near, far) = (near.unwrap(), TcpStream::connect(server).unwrap());
            let back = (far.try_clone().unwrap(), near.try_clone().unwrap());
            let (total, enough) = (Arc::clone(&total), enough.clone());
            thread::spawn(move || pass(near, far, |_| ()));
            thread::spawn(move || {
                pass(back.0, back.1, |read| {
                    if total.fetch_add(read, Ordering::Relaxed) >= bytes {
                        let _ = enough.send(());
                    }
                });
            });
        }
    });
    (port, told)
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
    let (port, answering) = relay(&server.1, 100_000);
    let load = thread::spawn(move || load_for("20", TCP_CLIENT, &port, &["-c", "3", "-m", "10"]));
    answering.recv_timeout(Duration::from_secs(20)).expect("the server answers");
    server.0.kill().unwrap();
    // It ends at once, not after 20 seconds.
    let start = Instant::now();
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
fn an_open_loop_counts_a_stall_against_all_that_was_due_meanwhile() {
    let port = misbehaving(|mut stream| {
        let mut buffer = [0; 9_600];
        // After about 300 messages it answers no more until it has another 300, which takes 0.3 s.
        let mut answered = 0;
        while answered < buffer.len() {
            let Ok(read @ 1..) = stream.read(&mut buffer) else { return };
            stream.write_all(&buffer[..read]).unwrap();
            answered += read;
        }
        stream.read_exact(&mut buffer).unwrap();
        stream.write_all(&buffer).unwrap();
        while let Ok(read @ 1..) = stream.read(&mut buffer) {
            if stream.write_all(&buffer[..read]).is_err() {
                return;
            }
        }
    });
    let report = result(&load_for("1", TCP_CLIENT, &port, &["-c", "1", "--rate", "1000"]));
    // Of 1000 messages 300 were due during the stall; a closed loop would have seen one slow one.
    let percentile = |name: &str| report["latency_ns"][name].as_u64().unwrap();
    assert!(percentile("p90") > 150_000_000, "{report:#}");
    assert!(percentile("max") > 290_000_000, "{report:#}");
    assert_eq!(report["mode"], "open");
    assert!(report["lateness_ns"]["p50"].is_u64());
    let messages = report["messages"].as_u64().unwrap();
    assert!((900..=1100).contains(&messages), "{messages}");
}

#[test]
fn an_open_loop_keeps_its_rate_over_many_clients() {
    let server = Server::start(env!("CARGO_BIN_EXE_yardstick-ws"), &[]);
    let report = result(&load_for("0.5", WS_CLIENT, &server.1, &["-c", "20", "--rate", "2000"]));
    let messages = report["messages"].as_u64().unwrap();
    assert!((900..=1100).contains(&messages), "{messages}");
    assert_eq!(report["rate"], 2000);
}

#[test]
fn tls_servers_and_their_yardstick() {
    let servers = [
        (Server::start(env!("CARGO_BIN_EXE_yardstick-tls"), &[]), TCP_CLIENT),
        (Server::start(env!("CARGO_BIN_EXE_tcp-echo-server"), &["--tls"]), TCP_CLIENT),
        (Server::start(env!("CARGO_BIN_EXE_ws-echo-server"), &["--tls"]), WS_CLIENT),
        (Server::start(env!("CARGO_BIN_EXE_yardstick-ws"), &["--tls"]), WS_CLIENT),
    ];
    for (server, client) in &servers {
        result(&load(client, &server.1, &["--tls", "-c", "5", "-m", "100"]));
        result(&load(client, &server.1, &["--tls", "-c", "5", "-m", "1", "-s", "100000"]));
        result(&load(client, &server.1, &["--tls", "-c", "2", "-m", "3", "-s", "1048576"]));
        result(&load(client, &server.1, &["--tls", "-c", "3", "--idle"]));
        result(&load(client, &server.1, &["--tls", "-c", "3", "--connect"]));
        // Without TLS it is refused, and says so.
        assert!(!load(client, &server.1, &["-c", "1", "-m", "1"]).status.success());
    }
}

#[test]
fn compressed_messages_come_back_compressed() {
    for program in [env!("CARGO_BIN_EXE_ws-echo-server"), env!("CARGO_BIN_EXE_yardstick-ws")] {
        let server = Server::start(program, &["--deflate"]);
        for (in_flight, size) in [("1", "1024"), ("16", "1024"), ("3", "100000"), ("16", "40")] {
            result(&load(WS_CLIENT, &server.1, &["--deflate", "-c", "5", "-m", in_flight, "-s", size]));
        }
        result(&load(WS_CLIENT, &server.1, &["--deflate", "-c", "5", "--rate", "500", "-s", "1024"]));
        result(&load(WS_CLIENT, &server.1, &["--deflate", "-c", "5", "--idle", "-s", "1024"]));
        result(&load(WS_CLIENT, &server.1, &["--deflate", "-c", "5", "--connect"]));
    }
    // One that does not compress is no result.
    let plain = Server::start(env!("CARGO_BIN_EXE_yardstick-ws"), &[]);
    failure(&load(WS_CLIENT, &plain.1, &["--deflate", "-c", "1"]), "agreed on the extensions ``");
}

/// The soak programs hold with few connections, too; how fast is not the question here.
#[test]
fn soak_programs_hold() {
    for arguments in [
        "broadcast --readers 45 --stalled 5 --ticks 5 --most 1000",
        "broadcast --readers 45 --stalled 5 --ticks 5 --most 1000 --policy wait",
        "drain --sessions 40 --messages 16 --idle 300",
        "churn --cycles 600 --at-once 8 --most 65536",
    ] {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_soak"))
            .args(arguments.split(' '))
            .output()
            .expect("it runs");
        let said =
            format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{arguments}: {said}");
    }
}
