//! The servers on other libraries do what ours do. Built with `--features peers` only.
#![cfg(feature = "peers")]

use std::process::Command;

use serde_json::Value;

#[test]
fn every_peer_echoes_and_broadcasts_in_every_way_it_can() {
    let file = std::env::temp_dir().join(format!("stormsocket-{}-peers.json", std::process::id()));
    let peers = "tungstenite,tungstenite-send,fastwebsockets,tokio-websockets,tokio-websockets-send,sockudo,sockudo-send,\
                 yawc,yawc-send";
    let output = Command::new(env!("CARGO_BIN_EXE_stormsocket-benchmark"))
        .args(["compare", "ws-m16", "ws-1m-m1", "bc-m16", "--servers", peers, "--json"])
        .arg(&file)
        .args(["--rounds", "1", "--warmup", "0.05", "-z", "0.1", "--no-pin"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    let json: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    std::fs::remove_file(&file).unwrap();
    for workload in json["workloads"].as_array().unwrap() {
        let servers = workload["servers"].as_array().unwrap();
        assert_eq!(servers.len(), 9, "{}", workload["workload"]);
        for server in servers {
            assert!(server["rate"]["median"].as_f64().unwrap() > 0.0, "{server:#}");
        }
    }
}
