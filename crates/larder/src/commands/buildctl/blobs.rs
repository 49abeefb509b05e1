//! `buildctl debug logs` and `debug get`: what a build printed, its trace, any blob of the daemon.

use std::io::Write;

use ::daemon::client::Client;
use futures_util::StreamExt;
use oci::Digest;
use proto::control::BuildHistoryRequest;

use crate::commands::Failure;
use crate::progress::{Kind, Progress, Target};

#[derive(clap::Args, Debug)]
pub struct Logs {
    /// Build
    #[arg(value_name = "REF")]
    build: String,
    /// progress output type
    #[arg(long, value_name = "KIND", default_value = "auto")]
    progress: String,
    /// show opentelemetry trace
    #[arg(long)]
    trace: bool,
}

#[derive(clap::Args, Debug)]
pub struct Get {
    /// Blob
    #[arg(value_name = "DIGEST")]
    digest: String,
}

/// Shows a build as it was or is seen by its client; or its trace.
pub async fn logs(client: &Client, flags: &Logs) -> Result<(), Failure> {
    if flags.trace {
        return trace(client, &flags.build).await;
    }
    let kind = Kind::parse(&flags.progress).map_err(Failure::usage)?;
    let progress = Progress::start_on(kind, Target::Output);
    let done = client.follow(&flags.build, &progress.events()).await;
    progress.finish();
    Ok(done?)
}

async fn trace(client: &Client, build: &str) -> Result<(), Failure> {
    let request = BuildHistoryRequest { r#ref: build.to_owned(), early_exit: true, ..Default::default() };
    let found = client.histories(request).await?.next().await.transpose()?;
    let record = found.and_then(|event| event.record);
    let record = record.ok_or_else(|| Failure::failed(format!("ref {build} not found")))?;
    let blob = record.trace.ok_or_else(|| Failure::failed(format!("ref {build} does not have trace")))?;
    blob_to_output(client, &blob.digest).await
}

/// Prints a blob's bytes.
pub async fn get(client: &Client, flags: &Get) -> Result<(), Failure> {
    blob_to_output(client, &flags.digest).await
}

async fn blob_to_output(client: &Client, digest: &str) -> Result<(), Failure> {
    let digest = Digest::parse(digest).map_err(Failure::usage)?;
    let mut out = std::io::stdout();
    client.blob(&digest, &mut out).await?;
    Ok(out.flush()?)
}
