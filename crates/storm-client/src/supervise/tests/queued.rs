//! Sends that wait for a connection.

use super::*;

#[tokio::test(start_paused = true)]
async fn queued_sends_wait_in_order_behind_the_hello_and_each_says_what_became_of_it() {
    let hello = Arc::new(Notify::new());
    let options = ReconnectOptions::default().max_queued_bytes(10);
    let (script, shared, mut stage) = prepare(options, [], None, Some(hello.clone()));
    let client = launch(script, shared).await.expect("no failure");
    let mut server = stage.server().await;
    // Connected, but the handlers are not done.
    let one = begin(&client, "1").await;
    hello.notify_one();
    assert_eq!(one.await.unwrap().unwrap(), SendOutcome::Sent);
    client.send("2").await.expect("nothing in the way");
    let mut read = [0; 7];
    server.read_exact(&mut read).await.unwrap();
    assert_eq!(&read, b"hello12");
    drop(server);
    lost(&client).await;
    let mut waiting = Vec::new();
    for message in ["aaa", "b", "", "cc", "ddd"] {
        waiting.push(begin(&client, message).await);
    }
    // 3 + 1 + 1 + 2 + 3 bytes: not one more.
    assert!(matches!(client.send("e").await, Err(SendError::Full)));
    // What is given up makes room, and is not sent.
    let given_up = waiting.remove(3);
    given_up.abort();
    assert!(given_up.await.unwrap_err().is_cancelled());
    waiting.push(begin(&client, "ff").await);
    let mut server = stage.server().await;
    assert!(!waiting[0].is_finished());
    hello.notify_one();
    for sent in waiting {
        assert_eq!(sent.await.unwrap().unwrap(), SendOutcome::Sent);
    }
    let mut read = [0; 14];
    server.read_exact(&mut read).await.unwrap();
    assert_eq!(&read, b"helloaaabdddff");
    // Nothing is left of the line, and the end is told.
    drop(server);
    lost(&client).await;
    let last = begin(&client, "0123456789").await;
    client.disconnect().await;
    assert!(matches!(last.await.unwrap(), Err(SendError::Closed(_))));
    assert!(matches!(client.send("too late").await, Err(SendError::Closed(_))));
}

#[tokio::test(start_paused = true)]
async fn a_send_that_waits_for_room_when_the_connection_is_lost_goes_over_the_next_one() {
    let options = ReconnectOptions::default().max_queued_bytes(1 << 20);
    let (client, mut stage) = connected(options, []).await;
    let server = stage.server().await;
    // More than the pipe and the outbox take.
    while tokio::time::timeout(seconds(1), client.send(vec![1; 64 * 1024])).await.is_ok() {}
    let waiting = begin(&client, "the one").await;
    let next = begin(&client, "the next one").await;
    drop(server);
    let mut server = stage.server().await;
    assert_eq!(waiting.await.unwrap().unwrap(), SendOutcome::Sent);
    assert_eq!(next.await.unwrap().unwrap(), SendOutcome::Sent);
    let mut read = [0; 19];
    server.read_exact(&mut read).await.unwrap();
    assert_eq!(&read, b"the onethe next one");
    server.write_all(b"x").await.unwrap();
    client.abort();
}

#[tokio::test(start_paused = true)]
async fn a_message_that_is_more_than_the_whole_budget_ends_one_connection_not_each() {
    let budget = SendBudget::new(SendBudget::FLOOR);
    let mut options =
        ClientOptions::default().reconnect(ReconnectOptions::default().max_queued_bytes(1 << 20));
    options.session.max_pending_send_bytes = None;
    options.session.send_budget = Some(budget.clone());
    let hello = Arc::new(Notify::new());
    let (script, shared, mut stage) = prepare_with(options, [], None, Some(hello.clone()));
    let client = launch(script, shared).await.expect("no failure");
    let len = 2 * SendBudget::FLOOR;
    let too_much = || vec![0; len];
    // From the line, and over the connection of the moment.
    for from_the_line in [true, false] {
        let _server = stage.server().await;
        let failed = if from_the_line {
            let send = tokio::time::timeout(seconds(3600), client.send(too_much()));
            tokio::join!(send, async { hello.notify_one() }).0.expect("not for ever")
        } else {
            hello.notify_one();
            client.send("first").await.expect("it fits");
            client.send(too_much()).await
        };
        let limit = budget.limit();
        assert!(matches!(failed, Err(SendError::TooLarge { len: l, limit: m }) if (l, m) == (len, limit)));
        lost(&client).await;
    }
    let _server = stage.server().await;
    hello.notify_one();
    assert_eq!(client.send("the next one").await.expect("it fits"), SendOutcome::Sent);
    assert_eq!(budget.shed_sessions(), 2);
    client.abort();
}

#[tokio::test(start_paused = true)]
async fn a_send_keeps_its_terms_on_the_connection_of_the_moment_and_on_the_next_one() {
    let options = ReconnectOptions::default().max_queued_bytes(8 << 20);
    let (client, mut stage) = connected(options, []).await;
    let server = stage.server().await;
    // More than the pipe and the outbox take.
    let much = || vec![1; 2 << 20];
    assert_eq!(client.send(much()).await.unwrap(), SendOutcome::Sent);
    let dropped = client.send("x").policy(SlowConsumerPolicy::Drop).await;
    assert_eq!(dropped.unwrap(), SendOutcome::Dropped);
    assert!(matches!(client.try_send("x"), Err(SendError::Full)));
    assert!(matches!(client.send_text(&b"\xff"[..]).latest(1).await, Err(SendError::InvalidUtf8)));
    drop(server);
    lost(&client).await;
    assert!(matches!(client.try_send("x"), Err(SendError::Full)), "it would have to wait");
    let waiting = {
        let client = client.clone();
        tokio::spawn(async move {
            tokio::join!(
                client.send("1").policy(SlowConsumerPolicy::DropOldest),
                client.send(much()),
                client.send("2").policy(SlowConsumerPolicy::Drop),
                client.send("a").policy(SlowConsumerPolicy::DropOldest).latest("feed").uncompressed(),
            )
        })
    };
    let _server = stage.server().await;
    let (first, second, third, last) = waiting.await.unwrap();
    assert_eq!([first.unwrap(), second.unwrap()], [SendOutcome::Sent; 2]);
    assert_eq!([third.unwrap(), last.unwrap()], [SendOutcome::Dropped; 2]);
    client.abort();
    client.closed().await;
    assert!(matches!(client.try_send("x"), Err(SendError::Closed(Some(DisconnectReason::Aborted)))));
}
