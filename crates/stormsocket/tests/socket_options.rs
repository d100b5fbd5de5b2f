//! Options are really applied: read back from the sockets of both sides.
#![cfg(target_os = "linux")]

mod support;

use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, RawFd};
use std::time::Duration;

use socket2::SockRef;
use stormsocket::{ConfigError, KeepAlive, SocketOptions, StartError, TcpClient};
use support::*;

/// What a socket is set to.
#[derive(Debug, PartialEq, Eq)]
struct Applied {
    no_delay: bool,
    keep_alive: Option<(Duration, Duration, u32)>,
    recv_buffer: usize,
    send_buffer: usize,
}

/// Looks at this process's socket that is connected from `local` to `remote`.
fn applied(local: SocketAddr, remote: SocketAddr) -> Applied {
    let listed = std::fs::read_dir("/proc/self/fd").unwrap();
    let fds = listed.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<RawFd>().ok());
    for fd in fds {
        #[expect(unsafe_code, reason = "the only way to look at a socket the library owns")]
        // SAFETY: the descriptor is not closed by this, and calls on one that is gone meanwhile fail.
        let fd = unsafe { BorrowedFd::borrow_raw(fd) };
        let socket = SockRef::from(&fd);
        let addr = |addr: std::io::Result<socket2::SockAddr>| addr.ok().and_then(|addr| addr.as_socket());
        if (addr(socket.local_addr()), addr(socket.peer_addr())) != (Some(local), Some(remote)) {
            continue;
        }
        let keep_alive = socket.keepalive().unwrap().then(|| {
            (
                socket.tcp_keepalive_time().unwrap(),
                socket.tcp_keepalive_interval().unwrap(),
                socket.tcp_keepalive_retries().unwrap(),
            )
        });
        return Applied {
            no_delay: socket.tcp_nodelay().unwrap(),
            keep_alive,
            recv_buffer: socket.recv_buffer_size().unwrap(),
            send_buffer: socket.send_buffer_size().unwrap(),
        };
    }
    panic!("no socket from {local} to {remote}");
}

/// A server and a client with the same options; what their sockets are set to.
async fn both_sides(options: SocketOptions) -> [Applied; 2] {
    let (recorder, mut log) = recorder();
    let server = local_server().socket(options.clone()).handler(recorder).start().await.unwrap();
    let client = TcpClient::new(addr_of(&server)).socket(options).connect().await.unwrap();
    let (server_addr, client_addr) = (addr_of(&server), log.connected().await.remote_addr().unwrap());
    let both = [applied(server_addr, client_addr), applied(client_addr, server_addr)];
    soon(client.disconnect()).await;
    stop(&server).await;
    both
}

#[tokio::test]
async fn defaults() {
    for side in both_sides(SocketOptions::default()).await {
        assert!(!side.no_delay);
        assert!(side.keep_alive.is_some());
        // Linux reserves twice the number for its own bookkeeping.
        assert_eq!((side.recv_buffer, side.send_buffer), (2 * 64 * 1024, 2 * 64 * 1024));
    }
}

#[tokio::test]
async fn every_option_reaches_both_sides() {
    let options = SocketOptions::default()
        .no_delay(true)
        .keep_alive(
            KeepAlive::default().idle(Duration::from_secs(61)).interval(Duration::from_secs(7)).count(4),
        )
        .recv_buffer_size(20_000)
        .send_buffer_size(30_000);
    let expected = || Applied {
        no_delay: true,
        keep_alive: Some((Duration::from_secs(61), Duration::from_secs(7), 4)),
        recv_buffer: 40_000,
        send_buffer: 60_000,
    };
    assert_eq!(both_sides(options).await, [expected(), expected()]);
}

#[tokio::test]
async fn some_of_the_keep_alive_tuning_leaves_the_rest_to_the_system() {
    let system = both_sides(SocketOptions::default()).await[0].keep_alive.unwrap();
    let tuned = KeepAlive::default().interval(Duration::from_secs(9));
    for side in both_sides(SocketOptions::default().keep_alive(tuned)).await {
        assert_eq!(side.keep_alive, Some((system.0, Duration::from_secs(9), system.2)));
    }
}

#[tokio::test]
async fn what_is_off_or_left_to_the_system() {
    let options = SocketOptions::default().keep_alive(None).recv_buffer_size(None).send_buffer_size(None);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (near, far) =
        (listener.local_addr().unwrap(), std::net::TcpStream::connect(listener.local_addr().unwrap()));
    let far = far.unwrap();
    let _accepted = listener.accept().unwrap();
    let untouched = [applied(near, far.local_addr().unwrap()), applied(far.local_addr().unwrap(), near)];
    assert_eq!(both_sides(options).await, untouched);
}

#[tokio::test]
async fn values_no_system_takes_are_refused() {
    let millisecond = Duration::from_millis(1);
    for (options, name) in [
        (SocketOptions::default().recv_buffer_size(0), "recv_buffer_size"),
        (SocketOptions::default().send_buffer_size(0), "send_buffer_size"),
        (SocketOptions::default().keep_alive(KeepAlive::default().idle(millisecond)), "keep_alive"),
        (SocketOptions::default().keep_alive(KeepAlive::default().count(0)), "keep_alive"),
    ] {
        match local_server().socket(options).start().await {
            Err(StartError::Config(ConfigError::Invalid { option, .. })) => assert_eq!(option, name),
            other => panic!("{name}: {other:?}"),
        }
    }
}
