//! Messages leave whole and in order, however many tasks send and however long a turn is.

mod support;

use std::time::Duration;

use stormsocket::{LengthPrefixFramer, SendOutcome};
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_hundred_tasks_send_a_thousand_messages_each() {
    const TASKS: u32 = 100;
    const EACH: u32 = 1000;
    let (recorder, mut log) = recorder();
    let server = local_server()
        .framer(LengthPrefixFramer::new())
        .max_pending_send_bytes(16 * 1024)
        .handler(recorder)
        .start()
        .await
        .unwrap();
    let peer = Peer::connect(addr_of(&server)).await;
    let session = log.connected().await;
    for task in 0..TASKS {
        let session = session.clone();
        tokio::spawn(async move {
            for number in 0..EACH {
                let mut message = [task.to_be_bytes(), number.to_be_bytes()].concat();
                message.resize(8 + (task as usize + number as usize) % 50, 0xaa);
                assert_eq!(session.send(message).await.unwrap(), SendOutcome::Sent);
            }
        });
    }
    let mut next = [0; TASKS as usize];
    let mut bytes = 0;
    let mut reader = BufReader::with_capacity(1 << 16, peer.0);
    soon(async {
        for _ in 0..TASKS * EACH {
            let mut message = vec![0; reader.read_u32().await.unwrap() as usize];
            reader.read_exact(&mut message).await.unwrap();
            let task = u32::from_be_bytes(message[..4].try_into().unwrap());
            let number = u32::from_be_bytes(message[4..8].try_into().unwrap());
            assert_eq!(number, next[task as usize], "order of task {task}");
            assert_eq!(message.len(), 8 + (task as usize + number as usize) % 50);
            assert!(message[8..].iter().all(|byte| *byte == 0xaa));
            next[task as usize] += 1;
            bytes += 4 + message.len() as u64;
        }
    })
    .await;
    assert_eq!(next, [EACH; TASKS as usize]);
    until(|| session.metrics().bytes_sent == bytes).await;
    let metrics = session.metrics();
    assert_eq!((metrics.messages_sent, metrics.messages_dropped), ((TASKS * EACH).into(), 0));
    drop(reader);
    log.disconnected().await;
    stop(&server).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn turns_that_change_threads_lose_nothing() {
    // Enough bytes at once that a connection has to let others run in the middle, with replies queued.
    const PEERS: usize = 4;
    const FRAMES: u32 = 20_000;
    let server = local_server()
        .framer(LengthPrefixFramer::new())
        .on_data(|session, data| async move { session.send(data).await })
        .start()
        .await
        .unwrap();
    // Tasks that hog a thread for a while have the others move to another one.
    let mut hogs = tokio::task::JoinSet::new();
    for _ in 0..4 {
        hogs.spawn(async {
            loop {
                let began = std::time::Instant::now();
                while began.elapsed() < Duration::from_micros(500) {
                    std::hint::spin_loop();
                }
                tokio::task::yield_now().await;
            }
        });
    }
    let mut peers = Vec::new();
    for _ in 0..PEERS {
        let addr = addr_of(&server);
        peers.push(tokio::spawn(async move {
            let (read, mut write) = Peer::connect(addr).await.0.into_split();
            let writing = tokio::spawn(async move {
                let wire: Vec<u8> =
                    (0..FRAMES).flat_map(|n| frame(&[&n.to_be_bytes()[..], &[7; 60]].concat())).collect();
                write.write_all(&wire).await.unwrap();
                write.shutdown().await.unwrap();
            });
            let mut read = BufReader::with_capacity(1 << 16, read);
            let mut echo = [0; 68];
            for n in 0..FRAMES {
                read.read_exact(&mut echo).await.unwrap();
                assert_eq!(echo[..8], [64_u32.to_be_bytes(), n.to_be_bytes()].concat());
            }
            assert_eq!(read.read(&mut echo).await.unwrap(), 0);
            writing.await.unwrap();
        }));
    }
    for peer in peers {
        soon(peer).await.unwrap();
    }
    hogs.shutdown().await;
    stop(&server).await;
    let sent = u64::from(FRAMES) * PEERS as u64;
    assert_eq!((server.metrics().messages_sent, server.metrics().messages_received), (sent, sent));
}

#[tokio::test]
async fn what_another_task_sends_after_a_handlers_send_comes_after_it() {
    let server = local_server()
        .framer(LengthPrefixFramer::new())
        .on_data(|session, _| async move {
            for round in 0..100_u8 {
                session.send(vec![round, 0]).await.unwrap();
                let other = session.clone();
                tokio::spawn(async move { other.send(vec![round, 1]).await.unwrap() }).await.unwrap();
                session.send(vec![round, 2]).await.unwrap();
                let other = session.clone();
                std::thread::spawn(move || {
                    let mut send = std::pin::pin!(other.send(vec![round, 3]));
                    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
                    assert!(send.as_mut().poll(&mut context).is_ready());
                })
                .join()
                .unwrap();
                session.send(vec![round, 4]).await.unwrap();
            }
        })
        .start()
        .await
        .unwrap();
    let mut peer = Peer::connect(addr_of(&server)).await;
    peer.send(&frame(b"go")).await;
    for round in 0..100 {
        for step in 0..5 {
            assert_eq!(peer.frame().await, [round, step]);
        }
    }
    drop(peer);
    stop(&server).await;
}
