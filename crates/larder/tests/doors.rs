//! The daemon's doors to others: TCP with certificates of both sides, and sockets that systemd opened.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use testkit::tls::Authority;

use crate::buildx;
use crate::kitchen::{Kitchen, Ran};
use crate::named::Named;
use crate::served::{Served, port};

/// Certificates as Docker's clients name them, in a folder.
fn folder(kitchen: &Kitchen, name: &str, authority: &Authority, client: &Authority) -> String {
    let folder = kitchen.path(name);
    std::fs::create_dir(&folder).unwrap();
    let (certificate, key) = client.issue(name);
    for (from, to) in [(&authority.certificate, "ca.pem"), (&certificate, "cert.pem"), (&key, "key.pem")] {
        std::fs::copy(from, folder.join(to)).unwrap();
    }
    folder.to_str().unwrap().to_owned()
}

#[test]
fn only_clients_of_the_authority_build() {
    let Some(kitchen) = Kitchen::new() else { return };
    let Some(ours) = Authority::new(&kitchen.path("ours")) else { return };
    let theirs = Authority::new(&kitchen.path("theirs")).unwrap();
    let (certificate, key) = ours.issue("daemon");
    let (certificate, key, clients) =
        (certificate.to_str().unwrap(), key.to_str().unwrap(), ours.certificate.to_str().unwrap());
    let address = format!("tcp://127.0.0.1:{}", port());
    let flags = ["--tlscert", certificate, "--tlskey", key, "--tlscacert", clients];
    let served = Served::start(&kitchen, Some(address.clone()), &flags);
    let good = folder(&kitchen, "good", &ours, &ours);
    let named = Named::new(&kitchen);
    let ask = |args: &[&str]| named.buildctl(&[&["--addr", &address], args, &["debug", "workers"]].concat());
    assert!(ask(&["--tlsdir", &good]).ok().stdout.contains("linux/"));
    let apart = [("--tlscacert", "ca.pem"), ("--tlscert", "cert.pem"), ("--tlskey", "key.pem")];
    let apart: Vec<String> =
        apart.iter().flat_map(|(flag, file)| [(*flag).to_owned(), format!("{good}/{file}")]).collect();
    ask(&apart.iter().map(String::as_str).collect::<Vec<_>>()).ok();
    // Another name in the certificate than the address' host has to be said.
    assert_ne!(ask(&["--tlsdir", &good, "--tlsservername", "builder.example"]).code, 0);
    // A client of nobody, of somebody else, without TLS; and a daemon that is not whom the client believes.
    let refused = |args: &[&str]| {
        let ran = ask(args);
        assert_eq!(ran.code, 1, "{args:?}");
        assert!(ran.stderr.contains("error: no daemon answers") || ran.stderr.contains("refused"), "{}", ran.stderr);
    };
    refused(&["--tlscacert", clients]);
    refused(&["--tlsdir", &folder(&kitchen, "foreign", &ours, &theirs)]);
    refused(&["--tlsdir", &folder(&kitchen, "fooled", &theirs, &ours)]);
    refused(&[]);
    // larder's own command, and every buildx.
    kitchen.write("Dockerfile", "FROM base\nRUN echo over TLS\n");
    let ran = build(&served, &kitchen, &good);
    assert!(ran.ok().stderr.contains("over TLS"));
    for client in buildx::clients() {
        remote(&kitchen, &client, &address, &good, true);
        remote(&kitchen, &client, &address, &format!("{}/foreign", kitchen.path("").display()), false);
    }
}

fn build(served: &Served<'_>, kitchen: &Kitchen, certificates: &str) -> Ran {
    let context = kitchen.context();
    let args = ["build", "--progress", "plain", "--tls-dir", certificates, context.to_str().unwrap()];
    served.larder(&args)
}

/// buildx's remote driver with certificates.
fn remote(kitchen: &Kitchen, client: &str, address: &str, certificates: &str, may: bool) {
    let settings = tempfile::tempdir().unwrap();
    let buildx = |args: &[&str]| {
        let mut command = Command::new(client);
        command.args(args).env("BUILDX_CONFIG", settings.path()).env("HOME", settings.path()).stdin(Stdio::null());
        Ran::of(command.output().unwrap())
    };
    let options = format!("cacert={certificates}/ca.pem,cert={certificates}/cert.pem,key={certificates}/key.pem");
    buildx(&["create", "--name", "tls", "--driver", "remote", "--driver-opt", &options, address, "--use"]).ok();
    let inspected = if may { buildx(&["inspect", "--bootstrap"]) } else { buildx(&["inspect"]) };
    assert_eq!(
        inspected.stdout.contains("Status:") && inspected.stdout.contains("running"),
        may,
        "{}",
        inspected.stdout
    );
    if may {
        let ran = buildx(&["build", "--progress", "plain", kitchen.context().to_str().unwrap()]).ok();
        assert!(ran.stderr.contains("RUN echo over TLS"), "{}", ran.stderr);
    }
}

/// A daemon that was given its listening socket, and what started it.
struct Given(Child);

impl Drop for Given {
    fn drop(&mut self) {
        let _ = rustix::process::kill_process(rustix::process::Pid::from_child(&self.0), rustix::process::Signal::TERM);
        let _ = self.0.wait();
    }
}

fn answers(kitchen: &Kitchen, socket: &Path) {
    let named = Named::new(kitchen);
    let address = format!("unix://{}", socket.display());
    let ran = named.buildctl(&["--addr", &address, "--wait", "--timeout", "20", "debug", "workers"]).ok();
    assert!(ran.stdout.contains("linux/"), "{}", ran.stdout);
}

#[test]
fn a_socket_of_systemd_is_served() {
    let Some(kitchen) = Kitchen::new() else { return };
    let socket = kitchen.path("given.sock");
    let mut command = Command::new("systemd-socket-activate");
    command.arg("--listen").arg(&socket).arg("--setenv=LARDER_ROOT").args([env!("CARGO_BIN_EXE_larder"), "daemon"]);
    command.args(["--addr", "fd://"]).env("LARDER_ROOT", kitchen.root()).stdin(Stdio::null()).stderr(Stdio::null());
    let Ok(child) = command.spawn() else {
        eprintln!("SKIPPED: systemd-socket-activate is missing (Debian's package systemd)");
        return;
    };
    // Its process becomes the daemon's with the first client.
    let _given = Given(child);
    let begun = Instant::now();
    while !socket.exists() {
        assert!(begun.elapsed() < Duration::from_secs(20), "systemd-socket-activate does not listen");
        std::thread::sleep(Duration::from_millis(10));
    }
    answers(&kitchen, &socket);
}

/// The same by sd_listen_fds(3) alone: two sockets, of which one is TCP and needs certificates.
#[test]
fn given_sockets_are_guarded_too() {
    let Some(kitchen) = Kitchen::new() else { return };
    let socket = kitchen.path("given.sock");
    let unix = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let start = |count: &str, flags: &[&str]| {
        // A process learns that sockets are its own by its id. The shell gets them where it can name them.
        let script = "LISTEN_PID=$$ exec \"$@\" 3<&0 4<&1 </dev/null >/dev/null";
        let mut command = Command::new("sh");
        command.args(["-c", script, "sh", env!("CARGO_BIN_EXE_larder"), "daemon", "--addr", "fd://"]).args(flags);
        command.stdin(OwnedFd::from(unix.try_clone().unwrap())).stdout(OwnedFd::from(tcp.try_clone().unwrap()));
        command.env("LISTEN_FDS", count).env("LARDER_ROOT", kitchen.root()).stderr(Stdio::piped());
        command
    };
    let end = |command: &mut Command| Ran::of(command.spawn().unwrap().wait_with_output().unwrap());
    let refused = end(&mut start("2", &[]));
    assert_eq!(refused.code, 1, "{}", refused.stderr);
    assert!(refused.stderr.contains("has no TLS"), "{}", refused.stderr);
    let none = end(&mut start("0", &[]));
    assert!(none.code == 2 && none.stderr.contains("fd:// needs sockets from systemd"), "{}", none.stderr);
    let _given = Given(start("2", &["--without-tls"]).stderr(Stdio::null()).spawn().unwrap());
    answers(&kitchen, &socket);
    let address = format!("tcp://{}", tcp.local_addr().unwrap());
    assert!(Named::new(&kitchen).buildctl(&["--addr", &address, "debug", "workers"]).ok().stdout.contains("linux/"));
}
