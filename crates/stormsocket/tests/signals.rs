//! Being asked to end. A process of its own: signal handlers are the process's.
#![cfg(unix)]

mod support;

use std::future::Future;
use std::process::Command;
use std::task::{Context, Waker};
use std::time::Duration;

use stormsocket::shutdown_signal;
use support::*;

fn send(signal: &str) {
    let sent = Command::new("kill").args([signal, &std::process::id().to_string()]).status();
    assert!(sent.expect("there is a kill").success());
}

#[tokio::test]
async fn each_signal_ends_one_wait_and_a_shutdown_may_follow() {
    let (recorder, mut log) = recorder();
    let server = local_server().handler(recorder).start().await.unwrap();
    let mut peer = Peer::connect(addr_of(&server)).await;
    log.connected().await;
    for signal in ["-TERM", "-INT", "-TERM"] {
        let mut asked = Box::pin(shutdown_signal());
        assert!(asked.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        send(signal);
        soon(asked).await.unwrap();
    }
    let stopping = tokio::spawn({
        let server = server.clone();
        async move { server.shutdown(Duration::from_secs(15)).await }
    });
    peer.expect_end().await;
    drop(peer);
    assert_eq!(soon(stopping).await.unwrap().closed, 1);
}
