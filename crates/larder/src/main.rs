//! The `larder` command. Only this crate prints, reads the environment and knows exit codes.
//! Each verb is a file of `commands`; what they do is done by the crates beneath.

#![allow(clippy::print_stdout, clippy::print_stderr)] // this is the crate that prints

mod client;
mod commands;
mod progress;
mod report;
mod syscall;
mod systemd;
mod time;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    end_quietly_when_nobody_reads();
    // An image that holds this binary under BuildKit's names serves where BuildKit does.
    let name = std::env::args_os().next().unwrap_or_default();
    let name = std::path::Path::new(&name).file_name().unwrap_or_default();
    let done = match name.to_str() {
        Some("buildkitd") => commands::daemon::buildkitd::run(),
        Some("buildctl") => commands::buildctl::run(),
        _ => commands::Larder::parse().run(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !failure.text.is_empty() {
                eprintln!("{}", failure.text.trim_end());
            }
            ExitCode::from(failure.code)
        }
    }
}

/// `larder du | head`: a reader that has seen enough is no defect of ours. Rust's printing panics on it; the process then
/// ends as others do on SIGPIPE, without a word.
fn end_quietly_when_nobody_reads() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let text = panic.payload_as_str().unwrap_or_default();
        let printing =
            ["failed printing to std", "failed to write completion file"].iter().any(|t| text.starts_with(t));
        if printing && text.contains("Broken pipe") {
            std::process::exit(128 + 13);
        }
        usual(panic);
    }));
}
