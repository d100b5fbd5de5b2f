//! What a session carries for its user.

mod support;

use stormsocket::SessionKey;
use support::*;

static NAME: SessionKey<String> = SessionKey::new("name");
static COUNT: SessionKey<u64> = SessionKey::new("count");
static NAME_AS_NUMBER: SessionKey<u64> = SessionKey::new("name");

#[tokio::test]
async fn items_are_kept_by_name_and_type_from_any_task_and_beyond_the_end() {
    let (recorder, mut log) = recorder();
    let server = local_server()
        .on_data(|session, data| async move {
            session.set(&NAME, String::from_utf8(data.to_vec())?);
            session.send("noted").await?;
            Ok::<_, stormsocket::BoxError>(())
        })
        .handler(recorder)
        .start()
        .await
        .unwrap();
    let mut peer = Peer::connect(addr_of(&server)).await;
    let session = log.connected().await;
    assert!(session.items().is_empty());
    peer.send(b"Ada").await;
    peer.expect(b"noted").await;
    assert_eq!(session.get(&NAME).as_deref(), Some("Ada"));
    assert_eq!(session.get(&NAME_AS_NUMBER), None, "another type");
    assert_eq!(session.set(&COUNT, 1), None);
    let other = session.clone();
    let replaced = tokio::spawn(async move { other.set(&COUNT, 2) });
    assert_eq!(soon(replaced).await.unwrap(), Some(1));
    assert_eq!(session.items().len(), 2);
    assert_eq!(session.items().remove(&NAME_AS_NUMBER), None);
    assert_eq!(session.items().remove(&COUNT), Some(2));
    assert_eq!(session.set(&NAME_AS_NUMBER, 3), None, "what it replaces is of another type");
    assert_eq!(session.items().names(), ["name"]);
    drop(peer);
    log.data().await;
    log.disconnected().await;
    assert_eq!(session.get(&NAME_AS_NUMBER), Some(3));
    stop(&server).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_tasks_change_at_the_same_time_is_all_kept() {
    let (recorder, mut log) = recorder();
    let server = local_server().handler(recorder).start().await.unwrap();
    let peer = Peer::connect(addr_of(&server)).await;
    let session = log.connected().await;
    let adders: Vec<_> = (0..4)
        .map(|_| {
            let session = session.clone();
            tokio::spawn(async move {
                for _ in 0..1000 {
                    session.update(&COUNT, |count| *count += 1);
                }
            })
        })
        .collect();
    for adder in adders {
        soon(adder).await.unwrap();
    }
    assert_eq!(session.get(&COUNT), Some(4000));
    session.set(&NAME, "Ada".to_owned());
    assert_eq!(session.update(&NAME_AS_NUMBER, |number| *number += 7), 7, "another type is replaced");
    assert_eq!(session.get(&NAME), None);
    drop(peer);
    log.disconnected().await;
    stop(&server).await;
}
