//! A store, a context and a base image for one test.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

/// See the module.
pub struct Kitchen {
    folder: TempDir,
}

/// What a run of the command gave.
pub struct Ran {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Kitchen {
    /// With the base image `base` in the store. `None` where the machine can't run sandboxes.
    pub fn new() -> Option<Kitchen> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIPPED: end-to-end tests need root");
            return None;
        }
        let kitchen = Kitchen { folder: tempfile::tempdir().unwrap() };
        std::fs::create_dir(kitchen.context()).unwrap();
        let base = testkit::base::tar(kitchen.folder.path())?;
        kitchen.larder(&["image", "import", "base", base.to_str().unwrap()]).ok();
        Some(kitchen)
    }

    /// Another machine's store, which has the base and nothing else; as it is when it is there already.
    pub fn other(&self, store: &str) -> PathBuf {
        let root = self.path(store);
        if !root.exists() {
            // Several may be made at the same time: each is made from an archive of its own.
            let folder = self.path(&format!("{store}-base"));
            std::fs::create_dir(&folder).unwrap();
            let base = testkit::base::tar(&folder).unwrap();
            self.larder_in(&root, &["image", "import", "base", base.to_str().unwrap()]).ok();
        }
        root
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn root(&self) -> PathBuf {
        self.path("store")
    }

    pub fn context(&self) -> PathBuf {
        self.path("context")
    }

    /// Writes a file of the context.
    pub fn write(&self, name: &str, text: &str) {
        let path = self.context().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    pub fn command(&self, root: &Path, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_larder"));
        command.args(args).env("LARDER_ROOT", root).env("HOME", self.folder.path()).env_remove("SOURCE_DATE_EPOCH");
        command
    }

    pub fn larder(&self, args: &[&str]) -> Ran {
        self.larder_in(&self.root(), args)
    }

    pub fn larder_in(&self, root: &Path, args: &[&str]) -> Ran {
        Ran::of(self.command(root, args).output().unwrap())
    }

    /// `larder build ARGS CONTEXT`.
    pub fn build(&self, args: &[&str]) -> Ran {
        let context = self.context();
        let mut all = vec!["build", "--progress", "plain"];
        all.extend(args);
        all.push(context.to_str().unwrap());
        self.larder(&all)
    }

    /// Builds, and gives the files of the result as `path content` lines by `-o type=local`.
    pub fn files(&self, args: &[&str]) -> PathBuf {
        let out = self.path("out");
        let _ = std::fs::remove_dir_all(&out);
        let output = format!("type=local,dest={}", out.display());
        let mut all = vec!["-o", &output];
        all.extend(args);
        self.build(&all).ok();
        out
    }

    /// The causes of a build, as `larder explain` has them: step and cause kind, `-` for a hit.
    pub fn causes(&self) -> Vec<(String, String)> {
        self.causes_in(&self.root())
    }

    /// The same of another store.
    pub fn causes_in(&self, root: &Path) -> Vec<(String, String)> {
        let ran = self.larder_in(root, &["explain", "--format", "json"]);
        let line = |l: &str| {
            let value: serde_json::Value = serde_json::from_str(l).unwrap();
            (value["step"].as_str().unwrap().to_owned(), value["cause"].as_str().unwrap_or("-").to_owned())
        };
        ran.ok().stdout.lines().map(line).collect()
    }

    /// The cause of the step whose name contains `step`.
    pub fn cause(&self, step: &str) -> String {
        let causes = self.causes();
        let found = causes.iter().find(|(name, _)| name.contains(step));
        found.unwrap_or_else(|| panic!("no step like {step} in {causes:?}")).1.clone()
    }
}

impl Ran {
    pub fn of(output: Output) -> Ran {
        Ran {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    pub fn ok(self) -> Ran {
        assert_eq!(self.code, 0, "{}{}", self.stdout, self.stderr);
        self
    }

    /// How many steps say why they ran.
    pub fn missed(&self) -> usize {
        self.stderr.lines().filter(|l| l.contains(" because ")).count()
    }
}
