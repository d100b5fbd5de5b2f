//! Flags that make no run: exit code 2, and a sentence that says why.

use std::process::Command;

const TCP_CLIENT: &str = env!("CARGO_BIN_EXE_tcp-echo-client");
const WS_CLIENT: &str = env!("CARGO_BIN_EXE_ws-echo-client");
const COMPARE: &str = env!("CARGO_BIN_EXE_stormsocket-benchmark");

fn refused(program: &str, flags: &[&str], said: &str) {
    let output = Command::new(program).args(flags).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{flags:?}: {text}");
    assert!(text.contains(said), "{flags:?}: {text}");
    assert!(output.stdout.is_empty(), "{flags:?}: no numbers");
}

#[test]
fn load_generators_refuse_impossible_flags() {
    for (flags, said) in [
        (&["-c", "0"][..], "1..="),
        (&["-s", "0"], "1..="),
        (&["-m", "0"], "1..="),
        (&["-z", "never"], "not a number"),
        (&["-z", "0"], "at least 0.001"),
        (&["-a", "nowhere"], "invalid IP address"),
        (&["-p", "0"], "port 0 is for servers"),
        (&["-c", "1000", "-m", "1000", "-s", "1048576"], "GiB in flight"),
        (&["--rate", "0"], "1..=10000000"),
        (&["--rate", "10", "--connect"], "cannot be used with"),
        (&["--nonsense"], "unexpected argument"),
    ] {
        refused(TCP_CLIENT, flags, said);
        refused(WS_CLIENT, flags, said);
    }
    refused(TCP_CLIENT, &["--framer", "xml"], "length");
    refused(WS_CLIENT, &["--broadcast", "--deflate"], "cannot be used with");
    for mode in ["--idle", "--connect", "--rate=10"] {
        refused(WS_CLIENT, &["--broadcast", mode], "cannot be combined");
    }
}

#[test]
fn compare_refuses_what_it_cannot_do() {
    for (flags, said) in [
        (&["compare", "no-such"][..], "there are tcp-m1"),
        (&["compare", "--servers", "no-such"], "no server called"),
        (&["compare", "--servers", "yardstick-ws", "--baseline", "uws"], "none of the servers"),
        (&["compare", "ws-m1", "--servers", "yardstick-tcp"], "serves any of these"),
        (&["compare", "--server", "x=y"], "no {port}"),
        (&["compare", "--server", "x@udp=y {port}"], "none of raw"),
        (&["compare", "--server", "x@ws=y {port}", "--server", "x@ws=z {port}"], "two servers called x"),
        (&["compare", "--rounds", "0"], "1..=1000"),
        (&["compare", "-z", "0"], "at least 0.001"),
        (&["compare", "--threads", "0"], "1..=1024"),
        (&["compare", "--json", "/nonexistent/results.json"], "cannot write"),
        (&["compare", "--report", "/nonexistent/page.md"], "cannot write"),
        (&["compare", "--svg", "/proc/nonexistent"], "cannot make"),
        (&["show"], "required"),
        (&["show", "/nonexistent/results.json"], "cannot read"),
        (&["show", concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")], "cannot read"),
        (&["compete"], "unrecognized"),
    ] {
        refused(COMPARE, flags, said);
    }
}

#[test]
fn servers_refuse_impossible_flags() {
    for server in [
        env!("CARGO_BIN_EXE_tcp-echo-server"),
        env!("CARGO_BIN_EXE_ws-echo-server"),
        env!("CARGO_BIN_EXE_yardstick-tcp"),
        env!("CARGO_BIN_EXE_yardstick-length-codec"),
        env!("CARGO_BIN_EXE_yardstick-ws"),
    ] {
        refused(server, &["--threads", "0"], "1..=1024");
        refused(server, &["-p", "70000"], "70000");
        refused(server, &["-a", "here"], "invalid IP address");
    }
    for flag in ["--deflate", "--tls"] {
        refused(env!("CARGO_BIN_EXE_yardstick-ws"), &["--broadcast", flag], "cannot be used with");
    }
}
