//! When a process is asked to end.

use std::io;

/// Completes when the process is asked to end: with Ctrl-C (SIGINT), or on Unix with SIGTERM, which is what service managers
/// and container runtimes send.
///
/// From the first poll on these signals no longer end the process by themselves, for the rest of its life: whoever waits for
/// them has to end it. A second call waits for a second signal.
///
/// ```no_run
/// use std::time::Duration;
/// use storm_server::{TcpServer, shutdown_signal};
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let server = TcpServer::bind("0.0.0.0:5000").start().await?;
/// shutdown_signal().await?;
/// tokio::select! {
///     report = server.shutdown(Duration::from_secs(10)) => println!("{report:?}"),
///     // Asked twice: no more patience.
///     _ = shutdown_signal() => {}
/// }
/// # Ok(())
/// # }
/// ```
///
/// # Cancel safety
/// A signal that comes while no call is waiting is not remembered.
///
/// # Errors
/// The system does not let signals be handled.
pub async fn shutdown_signal() -> io::Result<()> {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let (mut interrupt, mut terminate) =
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        Ok(())
    }
    #[cfg(not(unix))]
    tokio::signal::ctrl_c().await
}
