//! `--ssh`: a real OpenSSH agent, asked by a real `ssh-add` inside a step.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::buildx;
use crate::kitchen::{Kitchen, Ran};
use crate::leaves::{eventually, nothing, processes};

/// An agent with one key, which tells what it does in a file.
struct Agent {
    child: Child,
    socket: PathBuf,
    told: PathBuf,
    /// Descriptors that it has without any connection.
    at_rest: usize,
}

impl Agent {
    /// `None`, loudly, without OpenSSH.
    fn start(kitchen: &Kitchen) -> Option<Agent> {
        let (socket, told) = (kitchen.path("agent.sock"), kitchen.path("told"));
        let out = std::fs::File::create(&told).unwrap();
        let mut command = Command::new("ssh-agent");
        let Ok(child) = command.arg("-d").arg("-a").arg(&socket).stdout(Stdio::null()).stderr(out).spawn() else {
            eprintln!("SKIPPED: ssh-agent is missing (Debian's package openssh-client)");
            return None;
        };
        let mut agent = Agent { child, socket, told, at_rest: 0 };
        eventually("the agent does not open its socket", || agent.socket.exists());
        agent.at_rest = agent.open();
        let key = key(kitchen);
        let added = Command::new("ssh-add").arg("-q").arg(key).env("SSH_AUTH_SOCK", &agent.socket).status().unwrap();
        assert!(added.success());
        Some(agent)
    }

    /// How many descriptors it has.
    fn open(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap().count()
    }

    /// Numbers of the connections that asked it something, as it counts them: its descriptors.
    fn sockets(&self) -> Vec<String> {
        let told = std::fs::read_to_string(&self.told).unwrap();
        let numbers =
            told.lines().filter_map(|l| l.split("process_message: socket ").nth(1)?.split_whitespace().next());
        numbers.map(str::to_owned).collect()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A private key; made once.
fn key(kitchen: &Kitchen) -> PathBuf {
    let key = kitchen.path("key");
    if !key.exists() {
        let mut command = Command::new("ssh-keygen");
        command.args(["-q", "-t", "ed25519", "-N", "", "-C", "the-kitchen-key", "-f"]).arg(&key);
        assert!(command.status().unwrap().success());
    }
    key
}

/// Puts `ssh-add` and its libraries into the context's folder `sys`.
fn bring_ssh_add(kitchen: &Kitchen) {
    let listed = Command::new("ldd").arg("/usr/bin/ssh-add").output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    let libraries = listed.split_whitespace().filter(|word| word.starts_with('/'));
    for file in libraries.chain(["/usr/bin/ssh-add"]) {
        let target = kitchen.context().join("sys").join(file.trim_start_matches('/'));
        std::fs::create_dir_all(target.parent().unwrap()).unwrap();
        std::fs::copy(Path::new(file), target).unwrap();
    }
}

const DOCKERFILE: &str = "FROM base\n\
    COPY sys /\n\
    RUN --mount=type=ssh,required=true,mode=741,uid=100,gid=102 test \"$(stat -c '%u %g %f' $SSH_AUTH_SOCK)\" = '100 102 c1e1'\n\
    RUN --mount=type=ssh for i in $(seq 4); do /usr/bin/ssh-add -l || exit 1; done\n\
    RUN --mount=type=ssh,uid=1000,id=default,target=/my.sock [ $(stat -c %u:%a /my.sock) = 1000:600 ]\n\
    RUN --mount=type=ssh,id=other,required=false [ -z \"$SSH_AUTH_SOCK\" ] || [ ! -e $SSH_AUTH_SOCK ]\n";

/// What every way to the agent must give.
fn holds(ran: &Ran, agent: &Agent) {
    assert_eq!(ran.stderr.matches("the-kitchen-key (ED25519)").count(), 4, "{}", ran.stderr);
    // A connection that ended is closed: the agent uses its place again, and holds none in the end. (The next one may come
    // a moment before the word that the one before has ended.)
    let asked = agent.sockets();
    let places: std::collections::BTreeSet<_> = asked.iter().collect();
    assert!(asked.len() >= 5 && places.len() <= 2, "connections were left open: {asked:?}");
    eventually("a connection to the agent is left open", || agent.open() == agent.at_rest);
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&agent.socket).unwrap());
    assert_eq!(mode & 0o777, 0o600, "the user's own socket was changed");
}

#[test]
fn the_agent_of_the_user() {
    let Some(kitchen) = Kitchen::new() else { return };
    let Some(agent) = Agent::start(&kitchen) else { return };
    bring_ssh_add(&kitchen);
    kitchen.write("Dockerfile", DOCKERFILE);
    let context = kitchen.context();
    let args = ["build", "--progress", "plain", "--ssh", "default", context.to_str().unwrap()];
    let mut command = kitchen.command(&kitchen.root(), &args);
    holds(&Ran::of(command.env("SSH_AUTH_SOCK", &agent.socket).output().unwrap()).ok(), &agent);
    nothing(&kitchen.root());
    // A step that wants an agent says so when there is none.
    let ran = kitchen.build(&["--no-cache"]);
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("unset ssh forward key default: no SSH key or agent"), "{}", ran.stderr);
}

#[test]
fn a_key_without_an_agent() {
    let Some(kitchen) = Kitchen::new() else { return };
    if Agent::start(&kitchen).is_none() {
        return;
    }
    bring_ssh_add(&kitchen);
    kitchen.write("Dockerfile", DOCKERFILE);
    let key = format!("default={}", key(&kitchen).display());
    let (place, context) = (kitchen.path("t"), kitchen.context());
    std::fs::create_dir(&place).unwrap();
    let args = ["build", "--progress", "plain", "--ssh", &key, context.to_str().unwrap()];
    let mut command = kitchen.command(&kitchen.root(), &args);
    let ran = Ran::of(command.env("TMPDIR", &place).output().unwrap()).ok();
    assert_eq!(ran.stderr.matches("the-kitchen-key (ED25519)").count(), 4, "{}", ran.stderr);
    eventually("an agent of ours runs on", || processes(place.to_str().unwrap()) == 0);
    assert_eq!(std::fs::read_dir(&place).unwrap().count(), 0, "its folder is left");
    let missing = kitchen.build(&["--ssh", "default=/not/here"]);
    assert_eq!(missing.code, 2, "{}", missing.stderr);
}

#[test]
fn no_agent_outlives_a_killed_build() {
    let Some(kitchen) = Kitchen::new() else { return };
    if Agent::start(&kitchen).is_none() {
        return;
    }
    kitchen.write("Dockerfile", "FROM base\nRUN --mount=type=ssh sleep 100\n");
    let key = format!("default={}", key(&kitchen).display());
    let (place, context) = (kitchen.path("t"), kitchen.context());
    std::fs::create_dir(&place).unwrap();
    let mut command = kitchen.command(&kitchen.root(), &["build", "--ssh", &key, context.to_str().unwrap()]);
    let mut build = command.env("TMPDIR", &place).stderr(Stdio::null()).spawn().unwrap();
    let agents = || processes(&format!("{}/larder-ssh", place.display()));
    eventually("no agent is started", || agents() > 0);
    eventually("the step does not run", || processes("sleep 100") > 0);
    build.kill().unwrap();
    build.wait().unwrap();
    eventually("an agent of ours runs on", || agents() == 0);
    eventually("its folder is left", || std::fs::read_dir(&place).unwrap().count() == 0);
}

#[test]
fn the_agent_of_a_client() {
    buildx::each(|kitchen, daemon| {
        let Some(agent) = Agent::start(kitchen) else { return };
        bring_ssh_add(kitchen);
        kitchen.write("Dockerfile", DOCKERFILE);
        holds(&daemon.build(&["--ssh", &format!("default={}", agent.socket.display())]).ok(), &agent);
        nothing(&kitchen.root());
    });
}
