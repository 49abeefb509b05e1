//! The collector in the background: after builds, what is old or does not fit goes, by the operator's policy or else
//! BuildKit's usual one.
//! It takes no input: it looks at the store, and running it once more does no harm.

use std::sync::Arc;
use std::time::Duration;

use builder::Engine;
use builder::event::{now_micros, now_millis};
use store::lifecycle::{Inventory, Policy, plan, sweep};

use crate::config::Worker;
use crate::jobs::Jobs;

/// Mean time between two looks. The true one is up to half more or less, so that many daemons do not move together.
const PAUSE: Duration = Duration::from_secs(60);

/// Looks after the store for as long as the daemon lives.
pub async fn run(engine: Arc<Engine>, jobs: Jobs, worker: Worker) {
    let mut collected = 0;
    loop {
        let jitter = now_micros() % PAUSE.as_micros() as u64;
        tokio::time::sleep(PAUSE / 2 + Duration::from_micros(jitter)).await;
        let builds = jobs.count();
        if builds == collected {
            continue;
        }
        collected = builds;
        let (store, worker, jobs) = (engine.store.clone(), worker.clone(), jobs.clone());
        let swept = tokio::task::spawn_blocking(move || {
            let inventory = Inventory::take(&store)?.going_since(jobs.going_since());
            // It was read when the daemon started.
            let policy = worker.policy(inventory.disk).unwrap_or_else(|_| Policy::standard(inventory.disk));
            let swept = sweep(&store, plan(&inventory, &policy, now_millis()))?;
            store.flush()?;
            Ok::<_, store::Error>(swept)
        });
        // A store that can't be collected now is looked at again after the next build.
        match swept.await {
            Ok(Err(_)) | Err(_) => collected = 0,
            Ok(Ok(_)) => {}
        }
    }
}
