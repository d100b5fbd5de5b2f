//! A server that runs out of file descriptors goes on when there are some again. A process of its own: the limit is the
//! process's.
#![cfg(unix)]

mod support;

use std::fs::File;

use stormsocket::ErrorKind;
use support::*;

#[tokio::test]
async fn accepting_goes_on_when_descriptors_are_free_again() {
    let (recorder, mut log) = recorder();
    let server = local_server()
        .on_data(|session, data| async move { session.send(data).await })
        .handler(recorder)
        .start()
        .await
        .unwrap();
    let mut early = Peer::connect(addr_of(&server)).await;
    log.connected().await;
    // Connected by the kernel; accepting it takes a descriptor that is not there.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    rlimit::Resource::NOFILE.set(256, rlimit::Resource::NOFILE.get_hard().unwrap()).unwrap();
    let mut hoard = Vec::new();
    while let Ok(file) = File::open("/dev/null") {
        hoard.push(file);
    }
    let mut late = Peer(soon(socket.connect(addr_of(&server))).await.unwrap());
    assert_eq!(log.next().await, Event::Error(None, ErrorKind::Accept));
    // Those that are in are served meanwhile.
    early.send(b"still served").await;
    early.expect(b"still served").await;
    assert_eq!(server.sessions().len(), 1);
    drop(hoard);
    late.send(b"served at last").await;
    late.expect(b"served at last").await;
    assert_eq!(server.sessions().len(), 2);
    let errors = server.metrics().error_count;
    assert!((1..20).contains(&errors), "{errors} errors: it must neither spin nor stay silent");
    drop((early, late));
    stop(&server).await;
}
