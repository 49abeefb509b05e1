//! `larder completions`: completions for a shell, on standard output.

use clap::CommandFactory;

use super::{Failure, Larder};

/// Print completions for a shell
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  larder completions bash > /etc/bash_completion.d/larder")]
pub struct Flags {
    /// The shell
    shell: clap_complete::Shell,
}

/// Prints.
pub fn run(flags: &Flags) -> Result<(), Failure> {
    clap_complete::generate(flags.shell, &mut Larder::command(), "larder", &mut std::io::stdout());
    Ok(())
}
