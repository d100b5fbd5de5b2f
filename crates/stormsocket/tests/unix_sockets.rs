//! Servers and clients on unix sockets, and the files those leave in the file system.
#![cfg(unix)]

mod support;

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use stormsocket::{DisconnectReason, StartError, TcpClient, TcpServer};
use support::*;

/// A path of this test's own, removed at the end.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("stormsocket-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }

    fn socket(&self) -> PathBuf {
        self.0.join("socket")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

async fn refused(path: &Path) -> ErrorKind {
    match TcpServer::bind(path).start().await {
        Err(StartError::Bind { source, .. }) => source.kind(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_conversation_and_a_clean_directory_afterwards() {
    let place = Place::new("conversation");
    let (recorder, mut log) = recorder();
    let server = TcpServer::bind(place.socket())
        .on_data(|session, data| async move { session.send(data).await })
        .start()
        .await
        .unwrap();
    assert_eq!(server.local_addr(), None);
    let client = TcpClient::new(place.socket()).handler(recorder).connect().await.unwrap();
    assert_eq!(log.connected().await.remote_addr(), None);
    client.send("over a unix socket").await.unwrap();
    assert_eq!(log.data().await, "over a unix socket");
    soon(client.disconnect()).await;
    assert_eq!(log.disconnected().await, DisconnectReason::ClosedByClient);
    stop(&server).await;
    assert!(!place.socket().exists());
}

#[tokio::test]
async fn a_stale_socket_is_replaced() {
    let place = Place::new("stale");
    drop(std::os::unix::net::UnixListener::bind(place.socket()).unwrap());
    assert!(place.socket().exists(), "a listener of the standard library leaves its file");
    let server = TcpServer::bind(place.socket()).start().await.unwrap();
    soon(TcpClient::new(place.socket()).connect()).await.unwrap().disconnect().await;
    stop(&server).await;
    assert!(!place.socket().exists());
}

#[tokio::test]
async fn a_live_socket_is_refused_and_goes_on() {
    let place = Place::new("live");
    let first = TcpServer::bind(place.socket()).start().await.unwrap();
    assert_eq!(refused(&place.socket()).await, ErrorKind::AddrInUse);
    soon(TcpClient::new(place.socket()).connect()).await.unwrap().disconnect().await;
    stop(&first).await;
}

#[tokio::test]
async fn any_other_file_is_refused_and_kept() {
    let place = Place::new("file");
    std::fs::write(place.socket(), "precious").unwrap();
    assert_eq!(refused(&place.socket()).await, ErrorKind::AddrInUse);
    assert_eq!(std::fs::read(place.socket()).unwrap(), b"precious");
    let directory = place.0.join("directory");
    std::fs::create_dir(&directory).unwrap();
    assert_eq!(refused(&directory).await, ErrorKind::AddrInUse);
    // Not even through a link.
    let link = place.0.join("link");
    std::os::unix::fs::symlink(place.socket(), &link).unwrap();
    assert_eq!(refused(&link).await, ErrorKind::AddrInUse);
    assert!(link.is_symlink());
    assert_eq!(refused(&place.0.join("missing").join("socket")).await, ErrorKind::NotFound);
}

#[tokio::test]
async fn a_server_whose_other_address_is_taken_leaves_no_file() {
    let place = Place::new("other");
    let taken = local_server().start().await.unwrap();
    let started = TcpServer::bind(place.socket()).also_bind(addr_of(&taken)).start().await;
    assert!(
        matches!(&started, Err(StartError::Bind { source, .. }) if source.kind() == ErrorKind::AddrInUse),
        "{started:?}"
    );
    assert!(!place.socket().exists());
    stop(&taken).await;
}

#[tokio::test]
async fn stopping_leaves_a_file_that_has_replaced_ours() {
    let place = Place::new("replaced");
    let server = TcpServer::bind(place.socket()).start().await.unwrap();
    std::fs::remove_file(place.socket()).unwrap();
    std::fs::write(place.socket(), "somebody else's").unwrap();
    stop(&server).await;
    assert_eq!(std::fs::read(place.socket()).unwrap(), b"somebody else's");
}

#[tokio::test]
async fn an_abort_ends_the_peers_stream() {
    let place = Place::new("abort");
    let (recorder, mut log) = recorder();
    let server = TcpServer::bind(place.socket()).handler(recorder).start().await.unwrap();
    let client = TcpClient::new(place.socket()).connect().await.unwrap();
    log.connected().await.abort();
    soon(client.closed()).await;
    assert_eq!(log.disconnected().await, DisconnectReason::Aborted);
    stop(&server).await;
}
