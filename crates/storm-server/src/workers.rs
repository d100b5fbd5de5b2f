//! Worker threads: each has a current-thread runtime of its own, in which the connections it is given stay.
//!
//! Owns: the threads and their runtimes, and how many connections each has.
//! In:   connections that look for the thread with the fewest ([`Workers::least_busy`]); the end of what they work for.
//! Out:  a runtime to serve each connection in.
//! Not here: where connections come from (`start`, `accept`).

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;

use crate::slots::{Slot, Slots};
use crate::worker::Worker;

/// How long the runtime a server was started in, when it shuts down, waits for the server's threads: as a rule as long as a
/// handler takes to the next await.
const LAST_WAIT: Duration = Duration::from_secs(1);

/// The worker threads of a server.
#[derive(Debug)]
pub(crate) struct Workers {
    workers: Box<[Arc<Worker>]>,
    /// Where the next search for the fewest connections begins, so that equals take turns.
    next: AtomicUsize,
    /// One slot for each thread that has not ended.
    running: Arc<Slots>,
    /// One for each call in one of the threads that waits for the end of all others.
    staying: Arc<Slots>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// Ends the threads whatever they still have to do.
    cut: watch::Sender<bool>,
}

/// Runtimes that no thread runs yet.
#[derive(Debug)]
pub(crate) struct Idle(Vec<OwnRuntime>);

/// Cuts the threads when dropped, and waits until they have ended.
#[derive(Debug)]
pub(crate) struct CutOnDrop {
    workers: Arc<Workers>,
    /// Nothing comes but the end, when no thread holds the other side any more.
    ended: mpsc::Receiver<()>,
    wait: Duration,
}

impl Workers {
    /// `count` workers, whose tasks do not run until [`start`](Self::start).
    pub(crate) fn new(count: usize) -> io::Result<(Arc<Self>, Idle)> {
        let runtimes: Vec<_> = (0..count).map(|_| OwnRuntime::new()).collect::<Result<_, _>>()?;
        let worker = |runtime: &OwnRuntime| Worker::new(runtime.get().handle().clone());
        let workers = Self {
            workers: runtimes.iter().map(worker).collect(),
            next: AtomicUsize::new(0),
            running: Slots::new(None),
            staying: Slots::new(None),
            threads: Mutex::default(),
            cut: watch::channel(false).0,
        };
        Ok((Arc::new(workers), Idle(runtimes)))
    }

    /// Starts the threads, each of which ends when its `work` does. On an error none is left.
    pub(crate) fn start<W>(self: &Arc<Self>, idle: Idle, work: impl Fn() -> W) -> io::Result<CutOnDrop>
    where
        W: Future<Output = ()> + Send + 'static,
    {
        self.start_by(idle, work, |builder, thread| builder.spawn(thread))
    }

    fn start_by<W>(
        self: &Arc<Self>,
        Idle(runtimes): Idle,
        work: impl Fn() -> W,
        mut spawn: impl FnMut(std::thread::Builder, Box<dyn FnOnce() + Send>) -> io::Result<JoinHandle<()>>,
    ) -> io::Result<CutOnDrop>
    where
        W: Future<Output = ()> + Send + 'static,
    {
        let (alive, ended) = mpsc::channel();
        let cut_on_drop = CutOnDrop { workers: self.clone(), ended, wait: LAST_WAIT };
        // Without a further sender here: it would be gone only after `cut_on_drop`.
        let senders = std::iter::repeat_n(alive, runtimes.len());
        for (n, (runtime, alive)) in runtimes.into_iter().zip(senders).enumerate() {
            let running = self.running.take().expect("these slots have no limit");
            let (work, mut cut) = (work(), self.cut.subscribe());
            let thread = move || {
                runtime.get().block_on(async {
                    tokio::select! {
                        () = work => {}
                        // The sender is there as long as the workers are: an error would be the end as well.
                        _ = cut.wait_for(|cut| *cut) => {}
                    }
                });
                // In this order: whoever waits for the threads finds nothing of theirs left.
                drop(runtime);
                drop(running);
                drop(alive);
            };
            // At most 15 bytes of a name are seen on Linux.
            let builder = std::thread::Builder::new().name(format!("stormsocket-{n}"));
            let thread = spawn(builder, Box::new(thread))?;
            self.threads.lock().push(thread);
        }
        Ok(cut_on_drop)
    }

    /// All of them.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Worker>> {
        self.workers.iter()
    }

    /// The worker with the fewest connections.
    pub(crate) fn least_busy(&self) -> &Arc<Worker> {
        let from = self.next.fetch_add(1, Ordering::Relaxed) % self.workers.len();
        let (before, after) = self.workers.split_at(from);
        let in_turn = after.iter().chain(before);
        in_turn.min_by_key(|worker| worker.connections()).expect("there is at least one")
    }

    /// Keeps the threads until dropped, if the caller runs in one of them: it cannot wait for its own end.
    pub(crate) fn stay(&self) -> Option<Slot> {
        self.is_here().then(|| self.staying.take().expect("these slots have no limit"))
    }

    /// Completes when nobody [stays](Self::stay).
    pub(crate) async fn nobody_stays(&self) {
        self.staying.all_free().await;
    }

    /// Completes when the last thread has come to its end.
    pub(crate) async fn idle(&self) {
        self.running.all_free().await;
    }

    /// Waits until all threads have ended: to be called when they are about to.
    pub(crate) fn join(&self) {
        let mut threads = self.threads.lock();
        for thread in threads.drain(..) {
            // Nothing of ours panics there but what tokio has caught.
            drop(thread.join());
        }
    }

    /// Whether this is one of the threads.
    fn is_here(&self) -> bool {
        let here = std::thread::current().id();
        self.threads.lock().iter().any(|thread| thread.thread().id() == here)
    }
}

impl Drop for CutOnDrop {
    fn drop(&mut self) {
        self.workers.cut.send_replace(true);
        if self.workers.is_here() {
            return;
        }
        if self.ended.recv_timeout(self.wait) == Err(mpsc::RecvTimeoutError::Disconnected) {
            self.workers.join();
        }
    }
}

/// A runtime that may be dropped anywhere: its tasks are dropped, blocking ones are not waited for.
#[derive(Debug)]
struct OwnRuntime(Option<Runtime>);

impl OwnRuntime {
    fn new() -> io::Result<Self> {
        Builder::new_current_thread().enable_all().build().map(|runtime| Self(Some(runtime)))
    }

    fn get(&self) -> &Runtime {
        self.0.as_ref().expect("it is there until dropped")
    }
}

impl Drop for OwnRuntime {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn connections_go_where_the_fewest_are() {
        let (workers, _idle) = Workers::new(3).expect("runtimes");
        let count = || -> Vec<_> { workers.iter().map(|worker| worker.connections()).collect() };
        let mut assigned: Vec<_> = (0..9).map(|_| workers.least_busy().assign()).collect();
        assert_eq!(count(), [3, 3, 3]);
        assigned.retain(|assigned| !Arc::ptr_eq(assigned.worker(), &workers.workers[1]));
        assert_eq!(count(), [3, 0, 3]);
        assigned.extend((0..3).map(|_| workers.least_busy().assign()));
        assert_eq!(count(), [3, 3, 3]);
        drop(assigned);
        assert_eq!(count(), [0, 0, 0]);
    }

    #[tokio::test]
    async fn equals_take_turns() {
        let (workers, _idle) = Workers::new(3).expect("runtimes");
        // Each is gone before the next comes.
        let mut seen: Vec<_> = (0..3).map(|_| Arc::as_ptr(workers.least_busy().assign().worker())).collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 3);
    }

    #[tokio::test]
    async fn a_thread_that_cannot_be_had_leaves_none_behind() {
        let (workers, idle) = Workers::new(3).expect("runtimes");
        let mut started = 0;
        let failed = workers.start_by(idle, std::future::pending::<()>, |builder, thread| {
            started += 1;
            if started == 3 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            builder.spawn(thread)
        });
        assert_eq!(failed.map(drop).map_err(|error| error.kind()), Err(io::ErrorKind::WouldBlock));
        assert_eq!((started, workers.running.used()), (3, 0));
        assert!(workers.threads.lock().is_empty(), "they have been joined");
    }

    #[tokio::test]
    async fn threads_end_with_their_work_or_are_cut() {
        let (workers, idle) = Workers::new(2).expect("runtimes");
        let _cut = workers.start(idle, || std::future::ready(())).expect("threads");
        workers.idle().await;
        workers.join();

        let (workers, idle) = Workers::new(2).expect("runtimes");
        let cut = workers.start(idle, std::future::pending).expect("threads");
        let held = Arc::new(());
        for worker in workers.iter() {
            let held = held.clone();
            worker.runtime.spawn(async move {
                std::future::pending::<()>().await;
                drop(held);
            });
        }
        drop(cut);
        assert_eq!(workers.running.used(), 0);
        assert_eq!(Arc::strong_count(&held), 1, "tasks go with their thread");
    }

    #[tokio::test]
    async fn a_thread_that_is_blocked_is_not_waited_for_without_end() {
        let (workers, idle) = Workers::new(2).expect("runtimes");
        let mut cut = workers.start(idle, std::future::pending).expect("threads");
        cut.wait = Duration::from_millis(1);
        let (blocked, release) = (tokio::sync::oneshot::channel(), mpsc::channel::<()>());
        workers.workers[0].runtime.spawn(async move {
            blocked.0.send(()).expect("it is waited for");
            // Until the other end is gone.
            let _ = release.1.recv();
        });
        blocked.1.await.expect("the task runs");
        drop(cut);
        assert!(workers.running.used() >= 1, "it goes on");
        drop(release.0);
        workers.idle().await;
        workers.join();
    }
}
