//! What happens once a second: a tick to everyone, statistics to those who watch.

use std::sync::Arc;
use std::time::Duration;

use stormsocket::Hub;
use tokio::time::{MissedTickBehavior, interval};

use crate::commands::{ADMIN_WATCHERS, App, WATCHERS};
use crate::protocol::Event;
use crate::rooms;
use crate::stats::{self, MAX_ROWS, Sample, Totals};

/// Ticks until it is dropped.
pub(crate) async fn tick(app: Arc<App>, hub: Arc<Hub>) {
    let mut seconds = interval(Duration::from_secs(1));
    seconds.set_missed_tick_behavior(MissedTickBehavior::Skip);
    // The first tick of an interval is at once, and a rate needs time between.
    seconds.tick().await;
    for tick in 1.. {
        seconds.tick().await;
        let event = Event::Tick { tick, timestamp: stats::timestamp(), online: hub.sessions().len() };
        hub.broadcast_text(event.to_json()).await;
        let (sample, totals) = app.stats.sample(&hub);
        report(&hub, sample, totals).await;
    }
}

/// Sends statistics to those who watch; costs nothing if nobody does.
async fn report(hub: &Hub, sample: Sample, totals: Totals) {
    let groups = hub.groups();
    let (public, full) = (groups.member_count(WATCHERS) > 0, groups.member_count(ADMIN_WATCHERS) > 0);
    if !public && !full {
        return;
    }
    let (mut sessions, _) = stats::sessions(hub, MAX_ROWS);
    let (rooms, total_rooms) = rooms::fullest(hub, MAX_ROWS);
    let json =
        |sessions: &[_]| Event::Stats { sample, totals, sessions, rooms: &rooms, total_rooms }.to_json();
    if public {
        groups.broadcast_text(WATCHERS, json(&sessions)).await;
    }
    if full {
        for row in &mut sessions {
            let address = hub.sessions().get(row.id).and_then(|session| session.remote_addr());
            row.address = address.map(|address| address.to_string());
        }
        groups.broadcast_text(ADMIN_WATCHERS, json(&sessions)).await;
    }
}
