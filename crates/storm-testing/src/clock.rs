//! Waits that end, and time that stands still.
//!
//! With `#[tokio::test(start_paused = true)]` tokio's clock stands still while any task can run, and jumps to the next
//! deadline when none can. A test about 45 seconds then takes none, and what it observes is exact. That takes streams of
//! memory: a task that waits for a socket looks like one with nothing to do.

use std::panic::Location;
use std::time::Duration;

/// How long [`soon`] and [`until`] wait, and a [`Peer`](crate::Peer): much longer than anything on one machine takes.
pub const LIMIT: Duration = Duration::from_secs(20);

/// Awaits `future`, and fails if that takes longer than `limit`.
///
/// # Panics
/// The time is up.
#[track_caller]
pub fn within<F: Future>(limit: Duration, future: F) -> impl Future<Output = F::Output> {
    let caller = Location::caller();
    async move {
        match tokio::time::timeout(limit, future).await {
            Ok(output) => output,
            Err(_) => panic!("not within {limit:?}, at {caller}"),
        }
    }
}

/// [`within`] the usual [`LIMIT`].
///
/// # Panics
/// The time is up.
#[track_caller]
pub fn soon<F: Future>(future: F) -> impl Future<Output = F::Output> {
    within(LIMIT, future)
}

/// Lets other tasks run until `condition` holds: for what no event announces. With a paused clock it lets time pass, too,
/// millisecond by millisecond.
///
/// # Panics
/// It does not hold within [`LIMIT`].
#[track_caller]
pub fn until(mut condition: impl FnMut() -> bool) -> impl Future<Output = ()> {
    soon(async move {
        // Most of what is waited for takes a few turns of other tasks, the rest does not need them all.
        for _ in 0..100 {
            if condition() {
                return;
            }
            tokio::task::yield_now().await;
        }
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
}

/// With a paused clock: lets `duration` pass, and everything happen that is due until then, and all that follows from it
/// at once. The clock is a millisecond further afterwards, which is how it knows that nobody has anything left to do.
///
/// ```
/// use std::time::Duration;
/// use storm_testing::clock;
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// let hourly = tokio::spawn(tokio::time::sleep(Duration::from_secs(3600)));
/// clock::pass(Duration::from_secs(3599)).await;
/// assert!(!hourly.is_finished());
/// clock::pass(Duration::from_secs(1)).await;
/// assert!(hourly.is_finished());
/// # }
/// ```
pub async fn pass(duration: Duration) {
    tokio::time::sleep(duration).await;
    tokio::time::sleep(Duration::from_millis(1)).await;
}

/// Awaits `future`, and tells how long that took on tokio's clock: exactly so when it is paused.
pub async fn timed<F: Future>(future: F) -> (F::Output, Duration) {
    let began = tokio::time::Instant::now();
    let output = future.await;
    (output, began.elapsed())
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_hangs_fails_and_says_where() {
        let hanging = tokio::spawn(soon(std::future::pending::<()>()));
        let (failure, took) = timed(hanging).await;
        let panic = failure.unwrap_err().into_panic();
        let text = panic.downcast_ref::<String>().unwrap();
        assert!(text.starts_with("not within 20s, at ") && text.contains("clock.rs:"), "{text}");
        assert_eq!(took, LIMIT);
    }

    #[tokio::test(start_paused = true)]
    async fn conditions_are_waited_for_without_and_with_time() {
        let turns = Rc::new(Cell::new(0));
        let count = turns.clone();
        until(move || count.replace(count.get() + 1) == 5).await;
        assert_eq!(turns.get(), 6);
        let later = tokio::spawn(tokio::time::sleep(Duration::from_millis(1_500)));
        let ((), took) = timed(until(|| later.is_finished())).await;
        assert!(took >= Duration::from_millis(1_500) && took < Duration::from_millis(1_510), "{took:?}");
    }
}
