//! A root to run in, and what a run printed.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use sandbox::{Cancel, Config, Error, Exit, Root, Sandbox, Spec, Stream};
use tempfile::TempDir;

pub const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A folder with an upper and a work directory over a base of busybox.
pub struct Machine {
    pub dir: TempDir,
    pub sandbox: &'static Sandbox,
}

/// What came out of a run.
#[derive(Debug)]
pub struct Ran {
    pub exit: Exit,
    pub out: String,
    pub err: String,
}

pub fn sandbox() -> &'static Sandbox {
    static SANDBOX: OnceLock<Sandbox> = OnceLock::new();
    SANDBOX.get_or_init(|| Sandbox::new(Config::default()))
}

/// Fills `base` with busybox and a few files of a small distribution.
pub fn fill(base: &Path) {
    for dir in ["bin", "etc", "root", "tmp", "home/app"] {
        fs::create_dir_all(base.join(dir)).unwrap();
    }
    fs::set_permissions(base.join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
    fs::copy("/bin/busybox", base.join("bin/busybox")).unwrap();
    let applets = std::process::Command::new("/bin/busybox").arg("--list").output().unwrap();
    for applet in String::from_utf8(applets.stdout).unwrap().lines().filter(|a| *a != "busybox") {
        symlink("busybox", base.join("bin").join(applet)).unwrap();
    }
    fs::write(base.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001::/home/app:/bin/sh\n").unwrap();
    fs::write(base.join("etc/group"), "root:x:0:\napp:x:1001:\nweb:x:33:app\n").unwrap();
}

fn base() -> &'static Path {
    static BASE: OnceLock<PathBuf> = OnceLock::new();
    BASE.get_or_init(|| {
        let base = std::env::temp_dir().join(format!("sandbox-test-base-{}", std::process::id()));
        fill(&base);
        base
    })
}

impl Machine {
    /// `None`, and loudly, where this machine cannot run `what`.
    pub fn new(what: &str) -> Option<Machine> {
        if !Path::new("/bin/busybox").exists() {
            eprintln!("SKIPPED: {what}: no /bin/busybox (apt-get install busybox-static)");
            return None;
        }
        if fs::metadata("/proc/self").unwrap().uid() != 0 {
            eprintln!("SKIPPED: {what}: needs root");
            return None;
        }
        Some(Machine { dir: tempfile::tempdir().unwrap(), sandbox: sandbox() })
    }

    pub fn base(&self) -> &'static Path {
        base()
    }

    pub fn upper(&self) -> PathBuf {
        self.dir.path().join("upper")
    }

    /// A fresh writable root over the base.
    pub fn root(&self) -> Root {
        self.root_over(vec![base().to_path_buf()])
    }

    pub fn root_over(&self, lower: Vec<PathBuf>) -> Root {
        for dir in ["upper", "work"] {
            let dir = self.dir.path().join(dir);
            let _absent = fs::remove_dir_all(&dir);
            fs::create_dir(&dir).unwrap();
        }
        Root::writable(lower, self.upper(), self.dir.path().join("work"))
    }

    /// A shell script as root.
    pub fn sh(&self, script: &str) -> Spec {
        self.spec(["/bin/sh", "-c", script])
    }

    pub fn spec<const N: usize>(&self, args: [&str; N]) -> Spec {
        let mut spec = Spec::new(self.root(), args);
        spec.env = vec![PATH.into()];
        spec
    }

    pub fn try_run(&self, spec: &Spec) -> Result<Ran, Error> {
        run_with(self.sandbox, spec, &Cancel::new().unwrap())
    }

    pub fn run(&self, spec: &Spec) -> Ran {
        self.try_run(spec).unwrap()
    }

    /// What a script prints; it must succeed.
    pub fn prints(&self, script: &str) -> String {
        self.prints_in(&self.sh(script))
    }

    pub fn prints_in(&self, spec: &Spec) -> String {
        let ran = self.run(spec);
        assert_eq!(ran.exit.status.code(), 0, "{ran:?}");
        ran.out
    }
}

pub fn run_with(sandbox: &Sandbox, spec: &Spec, cancel: &Cancel) -> Result<Ran, Error> {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let exit = sandbox.run(spec, cancel, &mut |stream, bytes| match stream {
        Stream::Stdout => out.extend_from_slice(bytes),
        Stream::Stderr => err.extend_from_slice(bytes),
    })?;
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ok(Ran { exit, out: text(out), err: text(err) })
}

/// Every path below `dir`, sorted, relative, without the folders that the system's own mounts lie in: which of them stay
/// behind, empty, depends on what the base has.
pub fn tree(dir: &Path) -> Vec<String> {
    fn walk(dir: &Path, top: &Path, all: &mut Vec<String>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            all.push(path.strip_prefix(top).unwrap().to_str().unwrap().to_string());
            if path.symlink_metadata().unwrap().is_dir() {
                walk(&path, top, all);
            }
        }
    }
    let mut all = Vec::new();
    walk(dir, dir, &mut all);
    all.retain(|path| !matches!(path.as_str(), "dev" | "etc" | "proc" | "sys"));
    all.sort();
    all
}
