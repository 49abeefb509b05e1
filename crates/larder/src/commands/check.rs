//! `larder check`: reads a Dockerfile and says what is wrong with it. It builds nothing and asks nobody.

use std::path::{Path, PathBuf};

use super::Failure;
use crate::report;

/// Check a Dockerfile without building it
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  larder check\n  larder check -f build/Dockerfile --format json")]
pub struct Flags {
    /// Directory of the Dockerfile
    #[arg(value_name = "PATH", default_value = ".")]
    path: PathBuf,
    /// Name of the Dockerfile [default: PATH/Dockerfile]
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// `text` or `json`
    #[arg(long, value_name = "FORMAT", default_value = "text", value_parser = ["text", "json"])]
    format: String,
}

/// Checks.
pub fn run(flags: &Flags) -> Result<(), Failure> {
    let path = flags.file.clone().unwrap_or_else(|| flags.path.join("Dockerfile"));
    file(&path, flags.format == "json")
}

/// Checks one file.
pub fn file(path: &Path, json: bool) -> Result<(), Failure> {
    let bytes = std::fs::read(path).map_err(|e| Failure::usage(format!("can't read {}: {e}", path.display())))?;
    let ignore = |name: String| std::fs::read_to_string(path.with_file_name(name)).ok();
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let ignore = ignore(format!("{name}.dockerignore")).or_else(|| ignore(".dockerignore".to_owned()));
    let ignore = dockerfile::ignore::patterns(&ignore.unwrap_or_default());
    let found = dockerfile::check(&bytes, &ignore);
    let errors = found.iter().filter(|finding| finding.is_error()).count();
    if json {
        println!("{}", serde_json::to_string_pretty(&found).map_err(Failure::failed)?);
    } else {
        if !found.is_empty() {
            let text = String::from_utf8_lossy(&bytes);
            let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
            println!("{}\n", report::dockerfile(&path.to_string_lossy(), text, &found));
        }
        match errors {
            0 => println!("{}", report::conclusion(found.len())),
            1 => println!("1 error keeps it from being built."),
            errors => println!("{errors} errors keep it from being built."),
        }
    }
    match (errors, found.len()) {
        (0, 0) => Ok(()),
        (0, _) => Err(Failure { code: 1, text: String::new() }),
        _ => Err(Failure { code: 2, text: String::new() }),
    }
}
