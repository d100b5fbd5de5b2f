//! The servers on other libraries do what ours do. Built with `--features peers` only.
#![cfg(feature = "peers")]

use std::process::Command;

use serde_json::Value;

const PEERS: &str = "tungstenite,tungstenite-send,fastwebsockets,tokio-websockets,tokio-websockets-send,sockudo,\
                     sockudo-send,yawc,yawc-send";

/// Every server named has a result in every workload named, and so was right in every byte of its replies.
fn all_have_results(workloads: &[&str], servers: &str) {
    let name = format!("stormsocket-{}-{}.json", std::process::id(), workloads[0]);
    let file = std::env::temp_dir().join(name);
    let output = Command::new(env!("CARGO_BIN_EXE_stormsocket-benchmark"))
        .arg("compare")
        .args(workloads)
        .args(["--servers", servers, "--json"])
        .arg(&file)
        .args(["--rounds", "1", "--warmup", "0.05", "-z", "0.3", "--no-pin"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    let json: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    std::fs::remove_file(&file).unwrap();
    let measured = json["workloads"].as_array().unwrap();
    assert_eq!(measured.len(), workloads.len());
    for workload in measured {
        let results = workload["servers"].as_array().unwrap();
        assert_eq!(results.len(), servers.split(',').count(), "{}", workload["workload"]);
        for server in results {
            assert!(server["rate"]["median"].as_f64().unwrap() > 0.0, "{server:#}");
        }
    }
}

#[test]
fn every_peer_echoes_and_broadcasts_in_every_way_it_can() {
    all_have_results(&["ws-m16", "ws-1m-m1", "bc-m16"], PEERS);
}

#[test]
fn every_peer_speaks_tls() {
    all_have_results(&["wss-m1", "wss-m16"], PEERS);
}

#[test]
fn peers_with_compression_compress() {
    let servers = "yawc,yawc-send,sockudo,sockudo-send";
    all_have_results(&["deflate-m1", "deflate-m16", "deflate-16k-m1"], servers);
}

#[test]
fn peers_without_compression_say_so() {
    for peer in [
        env!("CARGO_BIN_EXE_peer-tungstenite"),
        env!("CARGO_BIN_EXE_peer-fastwebsockets"),
        env!("CARGO_BIN_EXE_peer-tokio-websockets"),
    ] {
        let output = Command::new(peer).args(["-p", "0", "--deflate"]).output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("no permessage-deflate"), "{said}");
    }
}
