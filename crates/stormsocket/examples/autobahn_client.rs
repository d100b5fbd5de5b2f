//! Echo client for the Autobahn|Testsuite's fuzzing server: asks how many cases there are, then runs them one by one.
//!
//! The suite's address is the first argument (`ws://127.0.0.1:9001`), the name it reports under the second.

use std::time::Duration;

use stormsocket::{BoxError, DeflateOptions, Limits, WsClient, WsOptions};
use tokio::sync::mpsc;
use tokio::time::timeout;

/// The suite gives a case up after 480 s at most.
const CASE: Duration = Duration::from_secs(600);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), BoxError> {
    let mut args = std::env::args().skip(1);
    let suite = args.next().ok_or("the suite's address is missing")?;
    let agent = args.next().unwrap_or_else(|| "client".to_owned());

    let cases = case_count(&suite).await?;
    for case in 1..=cases {
        let url = format!("{suite}/runCase?case={case}&agent={agent}");
        if timeout(CASE, echo(&url)).await.is_err() {
            eprintln!("case number {case} was given up");
        }
    }
    let reports = WsClient::new(format!("{suite}/updateReports?agent={agent}")).connect().await?;
    reports.closed().await;
    Ok(())
}

async fn case_count(suite: &str) -> Result<u32, BoxError> {
    let (count, mut counts) = mpsc::unbounded_channel();
    let client = WsClient::new(format!("{suite}/getCaseCount"))
        .on_message(move |_, message| {
            let count = count.clone();
            async move {
                let _ = count.send(message.text().and_then(|text| text.parse().ok()));
            }
        })
        .connect()
        .await?;
    let cases = counts.recv().await.flatten();
    client.closed().await;
    Ok(cases.ok_or("the suite did not say how many cases there are")?)
}

/// Sends back what comes until the connection ends; the suite knows how it should have ended.
async fn echo(url: &str) {
    let limits = Limits::default().max_frame_size(None).max_message_size(None).max_fragments(None);
    let options = WsOptions::default().limits(limits).deflate(DeflateOptions::default().min_size(0));
    let client = WsClient::new(url)
        .ws(options)
        .on_message(|session, message| async move {
            // Closed in the meantime is a result, too.
            let _ = session.send(message).await;
        })
        .connect()
        .await;
    match client {
        Ok(client) => client.closed().await,
        Err(error) => eprintln!("{url}: {error}"),
    }
}
