//! One of a server's threads, as those see it who give it connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::runtime::Handle;

/// The runtime of a thread of its own, and how many connections are served there.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) runtime: Handle,
    connections: AtomicUsize,
}

/// A connection counted among those of its worker, until dropped.
#[derive(Debug)]
pub(crate) struct Assigned(Arc<Worker>);

impl Worker {
    pub(crate) fn new(runtime: Handle) -> Arc<Self> {
        Arc::new(Self { runtime, connections: AtomicUsize::new(0) })
    }

    /// Counts a connection.
    pub(crate) fn assign(self: &Arc<Self>) -> Assigned {
        self.connections.fetch_add(1, Ordering::Relaxed);
        Assigned(self.clone())
    }

    /// How many connections are counted.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

impl Assigned {
    #[cfg(test)]
    pub(crate) fn worker(&self) -> &Arc<Worker> {
        &self.0
    }
}

impl Drop for Assigned {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}
