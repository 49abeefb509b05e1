//! The `larder` command. Only this crate prints, reads the environment and knows exit codes.
//! Each verb is a file of `commands`; what they do is done by the crates beneath.

#![allow(clippy::print_stdout, clippy::print_stderr)] // this is the crate that prints

mod client;
mod commands;
mod progress;
mod report;
mod time;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let command = commands::Larder::parse();
    match command.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !failure.text.is_empty() {
                eprintln!("{}", failure.text.trim_end());
            }
            ExitCode::from(failure.code)
        }
    }
}
