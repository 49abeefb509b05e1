//! A failed step looked into with the debugger of a real client, on a terminal as its users have it.

use std::fs::File;
use std::io::{Read, Write};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use rustix::pty::OpenptFlags;

use crate::buildx::{Daemon, each};
use crate::leaves::{cgroups, eventually, nothing, processes};

/// A client on a terminal.
struct Console {
    child: Child,
    keyboard: File,
    shown: Receiver<Vec<u8>>,
    text: String,
}

impl Console {
    fn open(daemon: &Daemon<'_>, args: &[&str]) -> Console {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let ours = rustix::pty::openpt(flags).unwrap();
        rustix::pty::unlockpt(&ours).unwrap();
        let theirs = rustix::pty::ioctl_tiocgptpeer(&ours, flags).unwrap();
        let end = || Stdio::from(theirs.try_clone().unwrap());
        let mut command = daemon.command(args);
        command.env("BUILDX_EXPERIMENTAL", "1").env("TERM", "dumb").stdin(end()).stdout(end()).stderr(end());
        let child = command.spawn().unwrap();
        let mut screen = File::from(ours.try_clone().unwrap());
        let (tell, shown) = channel();
        std::thread::spawn(move || {
            let mut buffer = vec![0; 4096];
            // A terminal that nobody sits at any more ends with an error.
            while let Ok(count @ 1..) = screen.read(&mut buffer) {
                if tell.send(buffer[..count].to_vec()).is_err() {
                    return;
                }
            }
        });
        Console { child, keyboard: File::from(ours), shown, text: String::new() }
    }

    /// Waits until the screen shows it, beyond what was waited for before.
    fn until(&mut self, wanted: &str) {
        loop {
            if let Some(at) = self.text.find(wanted) {
                self.text.drain(..at + wanted.len());
                return;
            }
            let more = self.shown.recv_timeout(Duration::from_secs(30));
            let more = more.unwrap_or_else(|_| panic!("the screen never shows {wanted:?}: {}", self.text));
            self.text.push_str(&String::from_utf8_lossy(&more));
        }
    }

    fn enter(&mut self, line: &str) {
        self.keyboard.write_all(format!("{line}\r").as_bytes()).unwrap();
    }
}

#[test]
fn what_a_failed_step_left_is_there_and_goes_with_the_client() {
    each(|kitchen, daemon| {
        if daemon.is_old() {
            return; // its debugger is another one
        }
        let mark = format!("sleep 7{:06}", std::process::id());
        let text = "FROM base\nWORKDIR /w\nCOPY a a\nRUN --mount=type=cache,target=/c echo half > b; echo kept > /c/d; exit 3\n";
        kitchen.write("Dockerfile", text);
        kitchen.write("a", "copied");
        let debug = ["debug", "--invoke", "/bin/sh", "build", "--progress", "plain", "."];
        let mut console = Console::open(daemon, &debug);
        console.until("exit code: 3");
        console.until("# ");
        for (line, answer) in [
            ("cat /w/a /w/b /c/d; echo $((40 + 2))", "copiedhalf"),
            ("echo changed > /w/a; cat /w/a; test -t 0 && echo sits", "changed"),
        ] {
            console.enter(line);
            console.until(answer);
            console.until("# ");
        }
        // The monitor of the client: another process beside the first, and the state before the step.
        console.keyboard.write_all(b"\x01c").unwrap();
        console.until("(buildx) ");
        console.enter("exec cat /w/a");
        console.until("changed");
        console.until("(buildx) ");
        console.enter("rollback --init /bin/sh");
        console.until("Switched IO");
        console.enter("cat /w/b || echo gone-$((40 + 2)); cat /w/a");
        console.until("gone-42");
        console.until("copied");
        // A client that vanishes takes what runs in its containers along.
        console.enter(&mark);
        eventually("the process in the container never began", || processes(&mark) > 0);
        console.child.kill().unwrap();
        console.child.wait().unwrap();
        eventually("a process of a client that is gone runs on", || processes(&mark) == 0);
        eventually("something is left in the store", || {
            std::fs::read_dir(kitchen.root().join("drafts")).unwrap().next().is_none()
        });
        nothing(&kitchen.root());
        let groups = cgroups(daemon.id()).into_iter().filter_map(|group| std::fs::read_dir(group).ok()).flatten();
        assert_eq!(groups.filter(|e| e.as_ref().unwrap().file_type().unwrap().is_dir()).count(), 0);
    });
}
