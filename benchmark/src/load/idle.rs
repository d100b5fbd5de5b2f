//! Memory of idle connections: opens them, has one message echoed on each, then leaves them alone.

use std::time::Instant;

use crate::load::echo::{Run, bar};
use crate::load::outcome::{Idle, Meter, Outcome};
use crate::load::{DRAIN, Plan};

pub(crate) fn run(plan: &Plan) -> Result<Outcome, String> {
    let plan = Plan { in_flight: 1, ..plan.clone() };
    let mut run = Run::new(&plan)?;
    let mut meter = Meter::new(plan.server_pid);
    let progress = bar(&plan);
    let before = meter.server_memory();
    meter.start(0);

    progress.at(plan.warmup, "opening");
    run.connect(&plan)?;
    run.draining = true;
    run.prime(&plan);
    run.until(Instant::now() + DRAIN, || {})?;
    run.missing();
    meter.stop(run.replies, plan.size, &mut run.outcome);

    // Nothing is awaited now; whatever comes is a lost connection or a server's ping. One reply more than
    // was asked for keeps the run from being over.
    run.wanted += 1;
    let begin = Instant::now();
    run.until(begin + plan.measure, || {
        progress.at(plan.warmup + begin.elapsed(), "idle");
    })?;
    if let (Some(before), Some(held)) = (before, meter.server_memory()) {
        run.outcome.idle = Some(Idle { connections: plan.clients, before, held });
    }
    progress.finish();
    Ok(run.outcome)
}
