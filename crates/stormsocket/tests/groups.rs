//! Groups come to be with their first member and vanish with their last.

mod support;

use support::*;

fn names(session: &stormsocket::Session) -> Vec<String> {
    session.groups().iter().map(ToString::to_string).collect()
}

#[tokio::test]
async fn groups_follow_their_members() {
    let (recorder, mut log) = recorder();
    let server = local_server().handler(recorder).start().await.unwrap();
    let first_peer = Peer::connect(addr_of(&server)).await;
    let first = log.connected().await;
    let second_peer = Peer::connect(addr_of(&server)).await;
    let second = log.connected().await;
    let groups = server.groups();
    first.join("b");
    first.join("a");
    first.join("a");
    assert!(groups.add("a", &second));
    assert!(!groups.add("a", &second), "a member already");
    assert_eq!(names(&first), ["a", "b"]);
    assert!(first.is_in("b") && !second.is_in("b"));
    assert_eq!((groups.member_count("a"), groups.member_count("b"), groups.member_count("c")), (2, 1, 0));
    first.leave("b");
    first.leave("b");
    assert!(!first.is_in("b"));
    assert!(!groups.remove("b", &second));
    assert_eq!(groups.names().iter().map(|name| &**name).collect::<Vec<_>>(), ["a"]);
    first.join("c");
    groups.remove_from_all(&first);
    assert!(names(&first).is_empty());
    assert_eq!(groups.member_count("a"), 1);
    // It may come back.
    first.join("a");
    assert_eq!(groups.members("a").len(), 2);
    let name = String::from("a");
    for broadcast in [
        groups.broadcast(&name, "x"),
        groups.broadcast(groups.names()[0].clone(), "x"),
        groups.broadcast_text(name.as_str(), "x"),
        groups.broadcast_text(name, "x"),
    ] {
        assert_eq!(broadcast.await.sent, 2);
    }
    // Whoever has joined by the time it is sent is a member.
    let broadcast = groups.broadcast("d", "x");
    first.join("d");
    assert_eq!(broadcast.await.sent, 1);
    first.leave("d");
    drop(first_peer);
    log.disconnected().await;
    until(|| server.sessions().len() == 1).await;
    assert_eq!(groups.members("a"), [second]);
    drop(second_peer);
    log.disconnected().await;
    until(|| server.sessions().is_empty()).await;
    assert!(groups.names().is_empty());
    stop(&server).await;
}

#[tokio::test]
async fn a_group_takes_the_sessions_of_its_own_server_only() {
    let (recorder, mut log) = recorder();
    let servers = [local_server().handler(recorder.clone()), local_server().handler(recorder)]
        .map(|server| server.start());
    let [ours, theirs] = servers;
    let (ours, theirs) = (ours.await.unwrap(), theirs.await.unwrap());
    let _peer = Peer::connect(addr_of(&theirs)).await;
    let session = log.connected().await;
    session.join("room");

    assert!(!ours.groups().add("room", &session));
    assert!(!ours.groups().add("other", &session));
    assert!(ours.groups().names().is_empty());
    assert!(!ours.groups().remove("room", &session));
    ours.groups().remove_from_all(&session);
    assert_eq!(names(&session), ["room"]);
    assert_eq!(theirs.groups().members("room"), [session]);
    stop(&ours).await;
    stop(&theirs).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn joins_leaves_and_ends_race_without_ghosts_or_lost_joins() {
    let (recorder, mut log) = recorder();
    let server = local_server().handler(recorder).start().await.unwrap();
    for round in 0..30 {
        let mut racing = tokio::task::JoinSet::new();
        let mut peers = Vec::new();
        let stays_peer = Peer::connect(addr_of(&server)).await;
        let stays = log.connected().await;
        for _ in 0..6 {
            let peer = Peer::connect(addr_of(&server)).await;
            let session = log.connected().await;
            let server = server.clone();
            racing.spawn(async move {
                for _ in 0..20 {
                    session.join("room");
                    server.groups().broadcast("room", "x").await;
                    session.leave("room");
                    tokio::task::yield_now().await;
                    session.join("room");
                }
            });
            peers.push(peer);
        }
        racing.spawn({
            let stays = stays.clone();
            async move {
                for _ in 0..50 {
                    stays.leave("room");
                    stays.join("room");
                    tokio::task::yield_now().await;
                }
            }
        });
        if round % 2 == 0 {
            peers.truncate(3);
        }
        peers.into_iter().for_each(Peer::reset);
        soon(racing.join_all()).await;
        until(|| server.sessions().len() == 1).await;
        assert_eq!(server.groups().members("room"), [stays], "round {round}");
        drop(stays_peer);
        until(|| server.sessions().is_empty()).await;
        assert!(server.groups().names().is_empty());
        for _ in 0..7 {
            while !matches!(log.next().await, Event::Disconnected(..)) {}
        }
    }
    stop(&server).await;
}
