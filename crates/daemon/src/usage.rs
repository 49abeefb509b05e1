//! What the store holds, and its removal, in BuildKit's messages: `du` and `prune`.
//! What goes is decided by the store's collector.

use proto::control::{DiskUsageRequest, DiskUsageResponse, PruneRequest, UsageRecord};
use store::Store;
use store::lifecycle::{self, Filter, Inventory, Policy, Rule};
use tonic::Status;

use crate::control::status::timestamp;

/// Filters as clients send them; the empty one matches everything.
fn filter(texts: &[String]) -> Result<Filter, Status> {
    if texts.iter().any(String::is_empty) {
        return Ok(Filter::default());
    }
    Filter::parse(texts).map_err(|e| Status::invalid_argument(e.to_string()))
}

/// Does what blocks where it may.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Status> + Send + 'static,
) -> Result<T, Status> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| Status::internal("a thread that looked at the store ended early"))?
}

fn failed(error: store::Error) -> Status {
    Status::internal(error.to_string())
}

fn record(usage: &lifecycle::UsageRecord) -> UsageRecord {
    UsageRecord {
        id: usage.id.clone(),
        mutable: usage.mutable,
        in_use: usage.in_use,
        size: i64::try_from(usage.size).unwrap_or(i64::MAX),
        created_at: Some(timestamp(usage.created * 1000)),
        last_used_at: usage.last_used.map(|t| timestamp(t * 1000)),
        usage_count: i64::from(usage.usage_count),
        description: usage.description.clone(),
        record_type: usage.kind.name().to_owned(),
        shared: usage.shared,
        parents: usage.parents.clone(),
        ..UsageRecord::default()
    }
}

/// What the store holds.
pub fn list(store: &Store, request: &DiskUsageRequest) -> Result<DiskUsageResponse, Status> {
    let filter = filter(&request.filter)?;
    let oldest = u64::try_from(request.age_limit / 1_000_000).unwrap_or(0);
    let inventory = Inventory::take(store).map_err(failed)?;
    let now = builder::event::now_millis();
    let old = |u: &&lifecycle::UsageRecord| now.saturating_sub(u.last_used.unwrap_or(u.created)) >= oldest;
    let record = inventory.usage().filter(|u| filter.matches(u)).filter(old).map(record).collect();
    Ok(DiskUsageResponse { record })
}

/// Removes what the request names and nobody needs. `asker` is told to whoever misses it later; `going_since`: when the
/// oldest build that goes on began (milliseconds since 1970).
pub fn prune(
    store: &Store,
    request: &PruneRequest,
    asker: &str,
    going_since: impl Fn() -> Option<u64>,
) -> Result<Vec<UsageRecord>, Status> {
    let bytes = |n: i64| u64::try_from(n).unwrap_or(0);
    let rule = Rule {
        name: asker.to_owned(),
        filter: filter(&request.filter)?,
        all: request.all,
        keep_duration: bytes(request.keep_duration / 1_000_000),
        reserved_space: bytes(request.reserved_space),
        max_used_space: bytes(request.max_used_space),
        min_free_space: bytes(request.min_free_space),
    };
    let inventory = Inventory::take(store).map_err(failed)?.going_since(going_since());
    let plan = lifecycle::plan(&inventory, &Policy::asked(asker, rule), builder::event::now_millis());
    let swept = lifecycle::sweep(store, plan).map_err(failed)?;
    store.flush().map_err(failed)?;
    Ok(swept.gone.iter().map(|gone| record(&gone.usage)).collect())
}
