//! What `packaging/` holds does what it says: the image's Dockerfile is built by larder and the result runs as docker-buildx's
//! container drivers run it, systemd takes the units, and the sample configuration is one.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::buildx;
use crate::kitchen::{Kitchen, Ran};
use crate::leaves::eventually;

fn packaging() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packaging").canonicalize().unwrap()
}

/// A base for the image: a static shell, and what the binary is linked with.
fn base(folder: &Path) {
    let binary = env!("CARGO_BIN_EXE_larder");
    std::fs::create_dir_all(folder.join("bin")).unwrap();
    std::fs::copy("/bin/busybox", folder.join("bin/busybox")).unwrap();
    for applet in ["sh", "ln"] {
        std::os::unix::fs::symlink("busybox", folder.join("bin").join(applet)).unwrap();
    }
    std::fs::create_dir_all(folder.join("usr/bin")).unwrap();
    let linked = Command::new("ldd").arg(binary).output().unwrap();
    let linked = String::from_utf8(linked.stdout).unwrap();
    for path in linked.split_whitespace().filter(|word| word.starts_with('/')).map(Path::new) {
        let to = folder.join(path.strip_prefix("/").unwrap());
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::copy(path, to).unwrap();
    }
}

/// buildkitd in the image's files, with mounts that go with it.
struct Container(Child);

impl Container {
    fn start(root: &Path, flags: &str) -> Container {
        let at = root.display();
        let script = format!(
            "mkdir -p {at}/proc {at}/sys {at}/dev && mount --bind {at} {at} && mount -t proc proc {at}/proc && mount --rbind /sys {at}/sys && \
             mount --rbind /dev {at}/dev && exec chroot {at} buildkitd {flags}"
        );
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", &script]).stdin(Stdio::null());
        Container(command.stderr(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = rustix::process::kill_process(rustix::process::Pid::from_child(&self.0), rustix::process::Signal::TERM);
        let _ = self.0.wait();
    }
}

fn buildctl(root: &Path, args: &[&str]) -> Command {
    let mut command = Command::new("chroot");
    command.arg(root).arg("buildctl").args(args);
    command
}

/// Connections to a socket go through `buildctl dial-stdio`, as the drivers' go through an exec into their container.
fn dial(root: &Path, socket: &Path) {
    let (listener, root) = (UnixListener::bind(socket).unwrap(), root.to_owned());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(stream) = stream else { return };
            let mut command = buildctl(&root, &["dial-stdio"]);
            command.stdin(OwnedFd::from(stream.try_clone().unwrap())).stdout(OwnedFd::from(stream));
            let mut child = command.spawn().unwrap();
            std::thread::spawn(move || child.wait());
        }
    });
}

#[test]
fn the_image_works_as_a_builder() {
    let Some(kitchen) = Kitchen::new() else { return };
    let (base_folder, binary, root) = (kitchen.path("base"), kitchen.path("binary"), kitchen.path("image"));
    base(&base_folder);
    std::fs::create_dir(&binary).unwrap();
    std::fs::copy(env!("CARGO_BIN_EXE_larder"), binary.join("larder")).unwrap();
    let file = packaging().join("Dockerfile");
    assert_eq!(kitchen.larder(&["check", "-f", file.to_str().unwrap()]).ok().stderr, "");
    let contexts = [format!("base={}", base_folder.display()), format!("binary={}", binary.display())];
    let archive = format!("type=oci,dest={}", kitchen.path("image.tar").display());
    let given = ["-f", file.to_str().unwrap(), "--build-context", &contexts[0], "--build-context", &contexts[1]];
    kitchen.build(&[&given[..], &["-o", root.to_str().unwrap()], &["-o", &archive]].concat()).ok();
    // Its configuration starts the daemon, and asks it whether it is well.
    let config = Command::new("tar")
        .arg("-xOf")
        .arg(kitchen.path("image.tar"))
        .arg("--wildcards")
        .arg("blobs/sha256/*")
        .output();
    let config = String::from_utf8_lossy(&config.unwrap().stdout).into_owned();
    for text in ["Entrypoint", "\"buildkitd\"", "\"/var/lib/buildkit\"", "\"workers\""] {
        assert!(config.contains(text), "{text}");
    }
    let _container = Container::start(&root, "--debug --allow-insecure-entitlement=network.host");
    eventually("buildkitd does not answer", || {
        buildctl(&root, &["debug", "workers"]).output().unwrap().status.success()
    });
    let Some(client) = buildx::clients().pop() else { return };
    let socket = kitchen.path("dialled.sock");
    dial(&root, &socket);
    let buildx = |args: &[&str]| {
        let mut command = Command::new(&client);
        command.args(args).env("BUILDX_CONFIG", kitchen.path("buildx")).env("HOME", kitchen.path("home"));
        Ran::of(command.stdin(Stdio::null()).output().unwrap())
    };
    buildx(&["create", "--name", "in", "--driver", "remote", &format!("unix://{}", socket.display()), "--use"]).ok();
    let shown = buildx(&["inspect", "--bootstrap"]).ok().stdout;
    assert!(shown.contains("running"), "{shown}");
    std::fs::copy("/bin/busybox", kitchen.context().join("busybox")).unwrap();
    kitchen.write(
        "Dockerfile",
        "FROM scratch\nCOPY busybox /bin/\nRUN [\"/bin/busybox\", \"sh\", \"-c\", \"echo inside\"]\n",
    );
    let ran = buildx(&["build", "--progress", "plain", kitchen.context().to_str().unwrap()]).ok();
    assert!(ran.stderr.contains(" inside\n"), "{}", ran.stderr);
}

#[test]
fn systemd_takes_the_units() {
    let folder = tempfile::tempdir().unwrap();
    let units = |from: &str, scope: &str| {
        let to = folder.path().join(scope);
        std::fs::create_dir(&to).unwrap();
        let mut command = Command::new("systemd-analyze");
        command.args([scope, "verify"]).env("XDG_RUNTIME_DIR", folder.path());
        for name in ["larder.service", "larder.socket"] {
            let text = std::fs::read_to_string(packaging().join(from).join(name)).unwrap();
            // What is installed stands elsewhere here.
            std::fs::write(to.join(name), text.replace("/usr/bin/larder", env!("CARGO_BIN_EXE_larder"))).unwrap();
            command.arg(to.join(name));
        }
        command.output()
    };
    for (from, scope) in [("systemd", "--system"), ("systemd/user", "--user")] {
        let Ok(output) = units(from, scope) else {
            eprintln!("SKIPPED: systemd-analyze is missing (Debian's package systemd)");
            return;
        };
        let ran = Ran::of(output).ok();
        assert_eq!(ran.stderr, "", "{from}");
    }
}

#[test]
fn the_sample_configuration_is_one() {
    let text = std::fs::read_to_string(packaging().join("larder.toml")).unwrap();
    let (config, left_out) = daemon::config::Config::parse(&text).unwrap();
    assert_eq!(left_out, Vec::<String>::new());
    assert_eq!(config, daemon::config::Config::default(), "it says what larder does without it");
    // Every key that it shows is one that acts.
    let is_shown = |line: &&str| {
        line.starts_with("# ") && (line.contains(" = ") || line.trim_start_matches(['#', ' ']).starts_with('['))
    };
    let shown: Vec<&str> = text.lines().filter(is_shown).map(|line| line.trim_start_matches("# ")).collect();
    // An address is shown twice.
    let mut seen = std::collections::BTreeSet::new();
    let once: Vec<&str> =
        shown.into_iter().filter(|line| !line.trim().starts_with("address") || seen.insert("address")).collect();
    let (_, left_out) = daemon::config::Config::parse(&once.join("\n")).unwrap();
    assert_eq!(left_out, Vec::<String>::new());
}
