//! Processes whose input and output are the caller's, and processes beside a first one.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::sync::mpsc;

use rustix::pipe::{PipeFlags, pipe_with};
use sandbox::{Cancel, Error, Inside, Spec, Status, Stdio};

use crate::machine::Machine;

/// The caller's ends of a process' input, output and errors.
struct Ends {
    input: Option<File>,
    output: File,
    errors: File,
}

fn pipes() -> (Stdio, Ends) {
    let pipe = || pipe_with(PipeFlags::CLOEXEC).unwrap();
    let ((input, into), (output, out), (errors, err)) = (pipe(), pipe(), pipe());
    let ends = Ends { input: Some(into.into()), output: output.into(), errors: errors.into() };
    (Stdio { fds: [input, out, err], terminal: false }, ends)
}

fn text(file: &mut File) -> String {
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn input_goes_in_and_output_comes_out() {
    let Some(m) = Machine::new("input") else { return };
    let spec = m.sh("cat; echo to err >&2; exit 3");
    let (stdio, mut ends) = pipes();
    std::thread::scope(|scope| {
        let run = scope.spawn(|| m.sandbox.run_connected(&spec, stdio, &Cancel::new().unwrap(), drop));
        ends.input.take().unwrap().write_all(b"hello").unwrap();
        assert_eq!(text(&mut ends.output), "hello");
        assert_eq!(text(&mut ends.errors), "to err\n");
        assert_eq!(run.join().unwrap().unwrap().status, Status::Code(3));
    });
}

#[test]
fn a_terminal_is_the_process_own() {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    let Some(m) = Machine::new("a terminal") else { return };
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap();
    let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY | rustix::fs::OFlags::CLOEXEC;
    let open = || -> OwnedFd { rustix::fs::open(name.as_c_str(), flags, rustix::fs::Mode::empty()).unwrap() };
    let stdio = Stdio { fds: [open(), open(), open()], terminal: true };
    let spec = m.sh("test -t 0 && test -t 2 && echo typed > /dev/tty");
    let exit = m.sandbox.run_connected(&spec, stdio, &Cancel::new().unwrap(), drop).unwrap();
    assert_eq!(exit.status, Status::Code(0));
    let mut buffer = [0; 64];
    let count = rustix::io::read(&master, &mut buffer).unwrap();
    assert_eq!(&buffer[..count], b"typed\r\n");
}

/// Runs a container that waits on its input, and `body` while it runs; then ends it.
fn beside(m: &Machine, spec: &Spec, body: impl FnOnce(&Inside)) {
    let (stdio, ends) = pipes();
    let (send, started) = mpsc::channel();
    std::thread::scope(|scope| {
        // Dropped here when something fails, so that the container ends.
        let mut ends = ends;
        let cancel = Cancel::new().unwrap();
        let run = scope.spawn(move || m.sandbox.run_connected(spec, stdio, &cancel, |i| send.send(i).unwrap()));
        let inside = started.recv().unwrap();
        body(&inside);
        ends.input = None;
        assert_eq!(run.join().unwrap().unwrap().status, Status::Code(0));
        let (stdio, _ends) = pipes();
        let late = m.sandbox.run_beside(&inside, spec, stdio, &Cancel::new().unwrap(), drop);
        assert!(matches!(late, Err(Error::Spec(_))), "{late:?}");
    });
}

#[test]
fn a_second_process_sees_what_the_first_does() {
    let Some(m) = Machine::new("a process beside") else { return };
    let first = m.sh("cat > /dev/null");
    beside(&m, &first, |inside| {
        let run = |script: &str, user: &str| {
            let mut spec = first.clone();
            spec.args = ["/bin/sh", "-c", script].map(String::from).into();
            spec.user = sandbox::User::Named(user.into());
            let (stdio, mut ends) = pipes();
            let exit = m.sandbox.run_beside(inside, &spec, stdio, &Cancel::new().unwrap(), drop).unwrap();
            (exit.status, text(&mut ends.output))
        };
        assert_eq!(run("echo x > /made; hostname; exit 4", ""), (Status::Code(4), "buildkitsandbox\n".into()));
        // The first process is number 1 here as well, and the old root is out of sight.
        let script = "cat /made; tr '\\0' ' ' < /proc/1/cmdline; id -u; ls / | tr '\\n' ' '";
        let (status, out) = run(script, "app");
        assert_eq!(status, Status::Code(0));
        assert!(out.starts_with("x\ncat 1000\n"), "{out}");
        assert!(!out.contains("work "), "{out}");
        // It is held as the first is: it may not make devices that it can open, nor mount.
        assert_ne!(run("mount -t tmpfs none /tmp", "").0, Status::Code(0));
        assert_ne!(run("unshare -m true", "").0, Status::Code(0));
    });
}

#[test]
fn signals_and_cancel() {
    let Some(m) = Machine::new("signals") else { return };
    let spec = m.sh("trap 'exit 9' TERM; echo ready; while :; do sleep 0.01; done");
    let (stdio, mut ends) = pipes();
    let exit = m.sandbox.run_connected(&spec, stdio, &Cancel::new().unwrap(), |inside| {
        let mut ready = [0; 6];
        ends.output.read_exact(&mut ready).unwrap();
        inside.signal(15).unwrap();
        assert!(inside.signal(999).is_err());
    });
    assert_eq!(exit.unwrap().status, Status::Code(9));
    let cancel = Cancel::new().unwrap();
    let (stdio, _ends) = pipes();
    let exit = m.sandbox.run_connected(&m.sh("sleep 100"), stdio, &cancel, |_| cancel.cancel());
    assert!(matches!(exit, Err(Error::Cancelled)), "{exit:?}");
}
