//! `larder` for a user without root: the same builds with the same digests, and a clear word where a machine cannot.
//! The tests run as root and become user 65534 for the command, with ranges of ids that only its mount namespace shows.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::kitchen::Ran;
use crate::leaves::{eventually, nothing, processes};

/// `nobody`, which every machine has and which owns nothing.
const USER: u32 = 65534;

/// A user's home with a store, a context and the command.
pub struct Home {
    folder: TempDir,
}

impl Home {
    /// With the image `base` in the user's store. `None`, loudly, where the machine can't show it.
    fn new() -> Option<Home> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIPPED: tests of rootless builds need root, to become another user");
            return None;
        }
        for needed in ["/etc/subuid", "/etc/subgid", "/usr/bin/newuidmap"] {
            if !Path::new(needed).exists() {
                eprintln!("SKIPPED: rootless builds: {needed} is missing (Debian's packages passwd and uidmap)");
                return None;
            }
        }
        let home = Home { folder: tempfile::tempdir().unwrap() };
        std::fs::create_dir(home.path("context")).unwrap();
        std::fs::write(home.path("ranges"), format!("{USER}:300000:65536\n")).unwrap();
        std::fs::write(home.path("none"), "").unwrap();
        // The user may not be able to reach where it was built.
        let command = home.path("larder");
        if std::fs::hard_link(env!("CARGO_BIN_EXE_larder"), &command).is_err() {
            std::fs::copy(env!("CARGO_BIN_EXE_larder"), &command).unwrap();
        }
        let base = testkit::base::tar(home.folder.path())?;
        for mine in [home.folder.path().to_owned(), home.path("context")] {
            std::os::unix::fs::chown(&mine, Some(USER), Some(USER)).unwrap();
        }
        home.larder(&["image", "import", "base", base.to_str().unwrap()]).ok();
        Some(home)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path("context").join(name), text).unwrap();
    }

    /// The command as the user, whose ranges are what the file `ranges` says, after the shell's `before` as root.
    fn command(&self, ranges: &str, before: &str, args: &[&str]) -> Command {
        let ranges = self.path(ranges);
        let script = format!(
            "mount --bind {0} /etc/subuid && mount --bind {0} /etc/subgid && {before} \
             exec setpriv --reuid {USER} --regid {USER} --clear-groups \"$@\"",
            ranges.display()
        );
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", &script, "sh"]).arg(self.path("larder"));
        command.args(args).current_dir(self.folder.path()).env("HOME", self.folder.path());
        for name in ["LARDER_ROOT", "XDG_DATA_HOME", "XDG_RUNTIME_DIR", "SOURCE_DATE_EPOCH"] {
            command.env_remove(name);
        }
        command
    }

    fn larder(&self, args: &[&str]) -> Ran {
        Ran::of(self.command("ranges", "", args).output().unwrap())
    }

    fn build(&self, args: &[&str]) -> Ran {
        self.larder(&[&["build", "--progress", "plain"], args, &["context"]].concat())
    }
}

const EVERYTHING: &str = "FROM base AS one\n\
    COPY --chown=cook:7 f /dir/f\n\
    RUN mkdir /gone && touch /gone/x /gone/y && chown -R cook:8 /gone && chmod 4750 /gone/x\n\
    RUN rm -rf /gone && mkdir /gone && rm -r /home && ln -s /dir /link && chown -h 5:6 /link\n\
    FROM one\n\
    USER cook\n\
    RUN id -u > /tmp/who && cat /dir/f /tmp/who\n\
    USER root\n\
    COPY --from=one /dir /copy\n\
    RUN rm /dir/f && touch /dir/g\n";

#[test]
fn a_build_has_the_digests_that_root_has() {
    let Some(home) = Home::new() else { return };
    home.write("Dockerfile", EVERYTHING);
    home.write("f", "content");
    let output = |name: &str| format!("type=oci,dest={},rewrite-timestamp=true", home.path(name).display());
    let epoch = ["--build-arg", "SOURCE_DATE_EPOCH=1000000000"];
    let ran = home.build(&[&epoch[..], &["-o", &output("mine.tar")]].concat()).ok();
    assert!(ran.stderr.contains("RUN rm -rf /gone") && !ran.stderr.contains("warning"), "{}", ran.stderr);
    let root = home.path("as-root");
    let as_root = |args: &[&str]| {
        let mut command = Command::new(home.path("larder"));
        command.args(args).env("LARDER_ROOT", &root).env_remove("SOURCE_DATE_EPOCH");
        Ran::of(command.output().unwrap()).ok()
    };
    as_root(&["image", "import", "base", home.path("base.tar").to_str().unwrap()]);
    let (theirs, context) = (output("root.tar"), home.path("context"));
    as_root(&[&["build", "-o", &theirs], &epoch[..], &[context.to_str().unwrap()]].concat());
    let names = |tar: &str| {
        let listed = Command::new("tar").arg("-tf").arg(home.path(tar)).output().unwrap();
        String::from_utf8(listed.stdout).unwrap().lines().map(str::to_owned).collect::<std::collections::BTreeSet<_>>()
    };
    assert!(names("mine.tar").iter().filter(|n| n.starts_with("blobs/sha256/")).count() > 6, "{:?}", names("mine.tar"));
    assert_eq!(names("mine.tar"), names("root.tar"));
    let index =
        |tar: &str| Command::new("tar").arg("-xOf").arg(home.path(tar)).arg("index.json").output().unwrap().stdout;
    assert_eq!(String::from_utf8(index("mine.tar")), String::from_utf8(index("root.tar")));
    // The second run is a hit from end to end, and one change is one cause.
    assert_eq!(home.build(&epoch).ok().missed(), 0);
    home.write("f", "other");
    let ran = home.build(&epoch).ok();
    assert!(ran.stderr.contains("because f changed (content), 1 of 1 files"), "{}", ran.stderr);
    assert!(home.path(".local/share/larder/snapshots").is_dir());
}

#[test]
fn files_given_to_the_user_are_the_user_s() {
    let Some(home) = Home::new() else { return };
    home.write(
        "Dockerfile",
        "FROM base\nRUN echo x > /x && chown cook /x && mkdir /d && chown 7:8 /d && chmod 2755 /d\n",
    );
    home.build(&["-o", "out"]).ok();
    for name in ["x", "d", "bin/busybox"] {
        let data = std::fs::metadata(home.path("out").join(name)).unwrap();
        assert_eq!((data.uid(), data.gid()), (USER, USER), "{name}");
    }
    assert_eq!(std::fs::metadata(home.path("out/d")).unwrap().mode() & 0o7777, 0o2755);
}

#[test]
fn secrets_cache_mounts_and_networks() {
    let Some(home) = Home::new() else { return };
    home.write("token", "hush");
    home.write(
        "Dockerfile",
        "FROM base\n\
         RUN --mount=type=secret,id=t,uid=1000,mode=0440 test \"$(cat /run/secrets/t)\" = hush && stat -c %u:%a /run/secrets/t\n\
         RUN --mount=type=cache,target=/c,uid=1000 echo x >> /c/log && stat -c owner=%u /c\n\
         RUN --mount=type=cache,target=/c,uid=1000 echo lines=$(wc -l < /c/log)\n\
         RUN --mount=type=tmpfs,target=/t touch /t/x && echo x > /dev/null && head -c 1 /dev/zero > /t/y\n\
         RUN --network=none echo links=$(ls /sys/class/net)\n\
         RUN --mount=type=bind,source=token,target=/bound cat /bound\n",
    );
    let ran = home.build(&["--secret", "id=t,src=context/token"]).ok();
    for text in ["1000:440", "owner=1000", "lines=1", "links=lo", "hush"] {
        assert!(ran.stderr.lines().any(|l| l.ends_with(text)), "{text}: {}", ran.stderr);
    }
    let left = home.larder(&["prune", "--all", "--force"]).ok();
    assert!(left.stdout.contains("Total"), "{}", left.stdout);
    home.larder(&["image", "rm", "base"]).ok();
}

#[test]
fn a_cancelled_build_leaves_nothing() {
    let Some(home) = Home::new() else { return };
    let mark = format!("sleep 4{:07}", std::process::id());
    home.write("Dockerfile", &format!("FROM base\nRUN {mark}\n"));
    let mut child = home.command("ranges", "", &["build", "-q", "context"]).spawn().unwrap();
    eventually("the step never slept", || processes(&mark) > 0);
    // `exec` all the way: the shell, setpriv and larder are one process.
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    eventually("the step runs on", || processes(&mark) == 0);
    nothing(&home.path(".local/share/larder"));
    home.write("Dockerfile", "FROM base\nRUN true\n");
    home.build(&[]).ok();
}

#[test]
fn one_id_is_enough_for_what_needs_one() {
    let Some(home) = Home::new() else { return };
    let build = |text: &str| {
        home.write("Dockerfile", text);
        let args = ["--root", "single", "build", "--progress", "plain", "context"];
        Ran::of(home.command("none", "", &args).output().unwrap())
    };
    let base = home.path("base.tar");
    let import = ["--root", "single", "image", "import", "base", base.to_str().unwrap()];
    let ran = Ran::of(home.command("none", "", &import).output().unwrap()).ok();
    assert!(ran.stderr.contains("/etc/subuid has no entry for nobody"), "{}", ran.stderr);
    build("FROM base\nRUN id && touch /x && rm -r /home\nRUN ls -ln /x | grep ' 0  *0 '\n").ok();
    let ran = build("FROM base\nRUN chown 1000 /bin\n");
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("Invalid argument"), "{}", ran.stderr);
    home.write("f", "");
    for text in ["FROM base\nCOPY --chown=1000 f /f\n", "FROM base\nUSER 1000\nRUN true\n"] {
        let ran = build(text);
        assert_eq!(ran.code, 1);
        let says = ran.stderr.lines().find(|l| l.starts_with("error: ")).unwrap_or_default();
        assert!(says.contains("/etc/subuid and /etc/subgid"), "{}", ran.stderr);
    }
}

#[test]
fn what_the_machine_lacks_is_named() {
    let Some(home) = Home::new() else { return };
    home.write("Dockerfile", "FROM base\nRUN true\n");
    let bin = home.path("bin");
    std::fs::create_dir(&bin).unwrap();
    for name in ["newuidmap", "newgidmap"] {
        std::fs::copy(Path::new("/usr/bin").join(name), bin.join(name)).unwrap();
        std::fs::set_permissions(bin.join(name), std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let ran = home.command("ranges", "", &["build", "context"]).env("PATH", path).output().unwrap();
    let ran = Ran::of(ran);
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("has neither the set-user-id bit nor file capabilities"), "{}", ran.stderr);
    // A namespace of its own has a limit of its own.
    let inner = home.command("ranges", "echo 0 > /proc/sys/user/max_user_namespaces &&", &["build", "context"]);
    let script = format!(
        "mount --bind {0} /etc/subuid && mount --bind {0} /etc/subgid && exec unshare --user \
         --map-users=0,0,400000 --map-groups=0,0,400000 --setgroups=allow \"$@\"",
        home.path("all").display()
    );
    std::fs::write(home.path("all"), "root:0:400000\n").unwrap();
    let mut outer = Command::new("unshare");
    outer.args(["--mount", "--propagation", "private", "sh", "-c", &script, "sh"]);
    outer.arg(inner.get_program()).args(inner.get_args());
    outer.current_dir(home.folder.path()).env("HOME", home.folder.path()).env_remove("LARDER_ROOT");
    let ran = Ran::of(outer.output().unwrap());
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    assert!(ran.stderr.contains("sysctl -w user.max_user_namespaces=15000"), "{}", ran.stderr);
}

/// `docker buildx` and `larder daemon`, both as the user, at the socket where a user's is.
#[test]
fn a_daemon_of_the_user_s_own() {
    let Some(client) = crate::buildx::clients().pop() else { return };
    let Some(home) = Home::new() else { return };
    let run = home.path("run");
    std::fs::create_dir(&run).unwrap();
    std::os::unix::fs::chown(&run, Some(USER), Some(USER)).unwrap();
    let mut daemon = home.command("ranges", "", &["daemon"]);
    let mut daemon = daemon.env("XDG_RUNTIME_DIR", &run).stderr(std::process::Stdio::null()).spawn().unwrap();
    let socket = run.join("larder/larderd.sock");
    eventually("the daemon does not open its socket", || socket.exists());
    let as_user = |args: &[&str]| {
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid", &USER.to_string(), "--regid", &USER.to_string(), "--clear-groups", &client])
            .args(args);
        command.current_dir(home.path("context")).env("HOME", home.folder.path()).env_remove("SOURCE_DATE_EPOCH");
        command.env("BUILDX_CONFIG", home.path("buildx")).stdin(std::process::Stdio::null());
        command
    };
    let buildx = |args: &[&str]| Ran::of(as_user(args).output().unwrap());
    std::os::unix::fs::chown(home.folder.path(), Some(USER), Some(USER)).unwrap();
    buildx(&["create", "--name", "l", "--driver", "remote", &format!("unix://{}", socket.display()), "--use"]).ok();
    home.write("Dockerfile", EVERYTHING);
    home.write("f", "content");
    let out = format!("type=local,dest={}", home.path("out").display());
    let build = ["build", "--progress", "plain", "--provenance=false", "-o", &out, "."];
    buildx(&build).ok();
    assert_eq!(std::fs::read_to_string(home.path("out/copy/f")).unwrap(), "content");
    assert_eq!(std::fs::metadata(home.path("out/copy/f")).unwrap().uid(), USER);
    let again = buildx(&build).ok();
    assert!(!again.stderr.contains("because"), "{}", again.stderr);
    // A client that vanishes takes its step along.
    let mark = format!("sleep 7{:07}", std::process::id());
    home.write("Dockerfile", &format!("FROM base\nRUN {mark}\n"));
    let mut child = as_user(&["build", "-q", "."]).spawn().unwrap();
    eventually("the step never slept", || processes(&mark) > 0);
    child.kill().unwrap();
    child.wait().unwrap();
    eventually("a step of a client that is gone runs on", || processes(&mark) == 0);
    buildx(&["prune", "--all", "--force"]).ok();
    rustix::process::kill_process(rustix::process::Pid::from_child(&daemon), rustix::process::Signal::TERM).unwrap();
    assert!(daemon.wait().unwrap().success());
    nothing(&home.path(".local/share/larder"));
    assert!(!socket.exists());
}
