//! `larder image`: images of the store: list, remove, save as an archive, import an archive or a root file system.

use std::path::{Path, PathBuf};

use builder::images::Listed;
use builder::session::Output;
use oci::Reference;

use super::place::{At, Place};
use super::{Failure, Root, size, table};
use crate::client::outputs::WholeFile;
use crate::time;

/// Images of the store
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Examples:\n  larder image ls\n  larder image import base rootfs.tar\n  larder image save app -o app.tar"
)]
pub struct Flags {
    #[command(flatten)]
    at: At,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand, Debug)]
enum Verb {
    /// List images
    Ls,
    /// Remove names
    Rm {
        /// Names of images
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Write an image as an OCI archive
    Save {
        /// Name of the image
        name: String,
        /// The archive
        #[arg(short, long, value_name = "FILE")]
        output: PathBuf,
    },
    /// Take in an image: an OCI layout (folder or tar), or the tar of a root file system
    Import {
        /// Its name here
        name: String,
        /// Folder or tar
        from: PathBuf,
        /// `NAME=value` of the environment, for a root file system
        #[arg(long, value_name = "NAME=VALUE")]
        env: Vec<String>,
    },
}

/// Does it.
pub fn run(root: &Root, flags: &Flags) -> Result<(), Failure> {
    let place = Place::find(root, &flags.at)?;
    match &flags.verb {
        Verb::Ls => list(&place),
        Verb::Rm { names } => names.iter().try_for_each(|name| place.remove_image(&normal(name)?)),
        Verb::Save { name, output } => save(&place, name, output),
        Verb::Import { name, from, env } => {
            place.import_image(&normal(name)?, from, env)?;
            println!("{}", Reference::parse(name).map(Reference::or_latest).map_err(Failure::usage)?.familiar());
            Ok(())
        }
    }
}

/// A name that can't be read is the user's mistake, wherever the images are.
fn normal(name: &str) -> Result<String, Failure> {
    Reference::parse(name).map(|name| name.or_latest().to_string()).map_err(Failure::usage)
}

fn list(place: &Place) -> Result<(), Failure> {
    let now = builder::event::now_micros();
    let row =
        |image: Listed| vec![image.name, image.digest.short(), time::ago(image.created * 1000, now), size(image.size)];
    let rows: Vec<_> = place.images()?.into_iter().map(row).collect();
    table(&["NAME", "DIGEST", "CREATED", "SIZE"], &rows);
    Ok(())
}

/// Written beside its name and renamed when whole.
fn save(place: &Place, name: &str, output: &Path) -> Result<(), Failure> {
    let mut file = WholeFile::create(output).map_err(Failure::failed)?;
    place.save_image(&normal(name)?, &mut file)?;
    Box::new(file).finish().map_err(|e| Failure::failed(format!("can't write {}: {e}", output.display())))
}
