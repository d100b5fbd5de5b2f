//! No allocation per message on the plain path. A process of its own: the allocator counts for all of it.

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use stormsocket::{LengthPrefixFramer, MessageFramer, RawFramer};
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// The system's allocator, counting the calls of the threads that have asked for it.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

fn count() {
    let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
}

// SAFETY: every call goes to the system's allocator unchanged.
#[expect(unsafe_code, reason = "an allocator is")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller's promises are passed on.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Echoes `batch`, which holds `messages`, many times on this thread; returns the allocations per round trip.
async fn allocations_per_batch<F: MessageFramer + Clone + Sync>(framer: F, batch: &[u8]) -> f64 {
    const ROUNDS: u64 = 500;
    let server = local_server()
        .framer(framer)
        .on_data(|session, data| async move { session.send(data).await })
        .start()
        .await
        .unwrap();
    let mut peer = Peer::connect(addr_of(&server)).await.0;
    let mut echo = vec![0; batch.len()];
    let mut before = 0;
    for round in 0..ROUNDS + 100 {
        if round == 100 {
            before = ALLOCATIONS.get();
        }
        peer.write_all(batch).await.unwrap();
        peer.read_exact(&mut echo).await.unwrap();
    }
    let allocated = ALLOCATIONS.get() - before;
    assert_eq!(echo, batch);
    drop(peer);
    stop(&server).await;
    #[expect(clippy::cast_precision_loss, reason = "small numbers")]
    return allocated as f64 / ROUNDS as f64;
}

#[tokio::test]
async fn raw_and_length_prefixed_messages_allocate_nothing_once_warm() {
    const MESSAGES: usize = 500;
    let framed = frame(&[7; 32]).repeat(MESSAGES);
    let one = frame(&[7; 32]);
    // A batch may need a few for itself, which is nothing per message.
    for (what, allocations, allowed) in [
        ("raw, one at a time", allocations_per_batch(RawFramer, &[7; 32]).await, 0.99),
        ("raw, 16 KiB at a time", allocations_per_batch(RawFramer, &[7; 16 * 1024]).await, 2.99),
        (
            "length-prefixed, one at a time",
            allocations_per_batch(LengthPrefixFramer::new(), &one).await,
            0.99,
        ),
        (
            "length-prefixed, 500 at a time",
            allocations_per_batch(LengthPrefixFramer::new(), &framed).await,
            2.99,
        ),
    ] {
        println!("{what}: {allocations} allocations");
        assert!(allocations <= allowed, "{what}: {allocations} allocations");
    }
}
