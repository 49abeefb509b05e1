//! `--load` into a real Docker engine, through its own client.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use crate::kitchen::{Kitchen, Ran};
use crate::leaves::eventually;

/// An engine without a network, in the kitchen's folder.
pub struct Engine {
    child: Child,
    pub socket: String,
    path: String,
}

impl Engine {
    /// `None`, loudly, where there is none.
    pub fn start(kitchen: &Kitchen) -> Option<Engine> {
        let peers = std::env::var("LARDER_PEERS").unwrap_or_else(|_| "/usr/local/lib/larder-peers".to_owned());
        let folder = PathBuf::from(peers).join("docker");
        if !folder.join("dockerd").exists() {
            eprintln!("SKIPPED: --load: no Docker engine in {} (ci/buildx brings it)", folder.display());
            return None;
        }
        let at = |name: &str| kitchen.path(name).display().to_string();
        let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap());
        let socket = format!("unix://{}", at("docker.sock"));
        let mut command = Command::new(folder.join("dockerd"));
        command.args(["--bridge=none", "--iptables=false", "--ip6tables=false", "--storage-driver=vfs"]);
        command.args(["--data-root", &at("data"), "--exec-root", &at("exec"), "--pidfile", &at("pid"), "-H", &socket]);
        let log = std::fs::File::create(kitchen.path("dockerd.log")).unwrap();
        command.env("PATH", &path).env("TMPDIR", kitchen.path("context")).stdin(Stdio::null());
        let child = command.stdout(Stdio::null()).stderr(log).spawn().unwrap();
        let engine = Engine { child, socket, path };
        eventually("the engine does not answer: see its log", || engine.docker(&["version"]).code == 0);
        Some(engine)
    }

    pub fn docker(&self, args: &[&str]) -> Ran {
        let mut command = Command::new("docker");
        Ran::of(command.args(args).env("PATH", &self.path).env("DOCKER_HOST", &self.socket).output().unwrap())
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let _ =
            rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), rustix::process::Signal::TERM);
        let _ = self.child.wait();
    }
}

#[test]
fn load_into_an_engine() {
    let Some(kitchen) = Kitchen::new() else { return };
    let Some(engine) = Engine::start(&kitchen) else { return };
    kitchen.write(
        "Dockerfile",
        "FROM base\nRUN echo loaded > /f && ln /f /g && ln -s f /l && chown 7:8 /g && rm /etc/group\nCMD [\"cat\", \"/f\"]\n",
    );
    let (context, iid) = (kitchen.context(), kitchen.path("iid"));
    let load = |tag: &str| {
        let args = ["build", "--load", "-t", tag, "--iidfile", iid.to_str().unwrap(), context.to_str().unwrap()];
        let mut command = kitchen.command(&kitchen.root(), &args);
        Ran::of(command.env("PATH", &engine.path).env("DOCKER_HOST", &engine.socket).output().unwrap())
    };
    load("app:1").ok();
    let shown =
        engine.docker(&["image", "inspect", "app:1", "--format", "{{json .Config.Cmd}} {{len .RootFS.Layers}}"]).ok();
    assert_eq!(shown.stdout.trim(), "[\"cat\",\"/f\"] 2");
    // What the engine made of it is what was built.
    let saved = kitchen.path("saved.tar");
    engine.docker(&["save", "app:1", "-o", saved.to_str().unwrap()]).ok();
    let mut files = Vec::new();
    for entry in tar::Archive::new(std::fs::File::open(&saved).unwrap()).entries().unwrap() {
        let entry = entry.unwrap();
        if entry.path().unwrap().ends_with("layer.tar") {
            files.extend(tar::Archive::new(entry).entries().unwrap().map(|e| {
                let e = e.unwrap();
                let path = e.path().unwrap().display().to_string();
                format!("{path} {}:{}", e.header().uid().unwrap(), e.header().gid().unwrap())
            }));
        }
    }
    for wanted in ["f 7:8", "g 7:8", "l 0:0", "etc/.wh.group 0:0", "bin/busybox 0:0"] {
        assert!(files.iter().any(|f| f == wanted), "{wanted}: {files:?}");
    }
    // An engine that is gone is an error of the build.
    drop(engine.docker(&["image", "rm", "app:1"]).ok());
    let mut command = kitchen.command(&kitchen.root(), &["build", "--load", context.to_str().unwrap()]);
    let ran = Ran::of(command.env("PATH", &engine.path).env("DOCKER_HOST", "unix:///not/here").output().unwrap());
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("docker load failed"), "{}", ran.stderr);
}
