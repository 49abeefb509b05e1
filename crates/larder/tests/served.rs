//! The command while a daemon has the store: the same answers, whether the daemon reads this machine's files where they
//! are (its own socket) or is sent them (TCP).

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use crate::kitchen::{Kitchen, Ran};

/// A daemon on the kitchen's store.
pub struct Served<'a> {
    pub kitchen: &'a Kitchen,
    child: Child,
    /// Where commands are told to find it; without, they look in the store's folder.
    pub addr: Option<String>,
}

impl<'a> Served<'a> {
    pub fn start(kitchen: &'a Kitchen, addr: Option<String>, flags: &[&str]) -> Served<'a> {
        let named = addr.clone().unwrap_or_else(|| format!("unix://{}", kitchen.path("d.sock").display()));
        let args = [&["daemon", "--addr", &named], flags].concat();
        let child = kitchen.command(&kitchen.root(), &args).stderr(Stdio::null()).stdin(Stdio::null()).spawn().unwrap();
        let begun = Instant::now();
        while !kitchen.root().join("larder.sock").exists() {
            assert!(begun.elapsed() < Duration::from_secs(20), "the daemon does not open its socket");
            std::thread::sleep(Duration::from_millis(10));
        }
        Served { kitchen, child, addr }
    }

    pub fn larder(&self, args: &[&str]) -> Ran {
        Ran::of(self.command(args).output().unwrap())
    }

    pub fn command(&self, args: &[&str]) -> std::process::Command {
        let mut command = self.kitchen.command(&self.kitchen.root(), args);
        if let Some(addr) = &self.addr {
            command.env("LARDER_ADDR", addr);
        }
        command
    }

    pub fn build(&self, args: &[&str]) -> Ran {
        let context = self.kitchen.context();
        let mut all = vec!["build", "--progress", "plain"];
        all.extend(args);
        all.push(context.to_str().unwrap());
        self.larder(&all)
    }
}

impl Drop for Served<'_> {
    fn drop(&mut self) {
        let _ =
            rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), rustix::process::Signal::TERM);
        let _ = self.child.wait();
    }
}

/// A port that nobody has just now.
pub fn port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Runs `test` with a daemon that is near, and with one that is reached over TCP only.
fn each(test: impl Fn(&Kitchen, &Served<'_>)) {
    for is_near in [true, false] {
        let Some(kitchen) = Kitchen::new() else { return };
        let addr = (!is_near).then(|| format!("tcp://127.0.0.1:{}", port()));
        let served = Served::start(&kitchen, addr, &["--without-tls"]);
        test(&kitchen, &served);
    }
}

#[test]
fn causes_and_verbs_are_the_same() {
    each(|kitchen, served| {
        kitchen.write("Dockerfile", "FROM base AS deps\nCOPY src /src\nRUN cat /src/a\nFROM deps\nRUN echo last\n");
        kitchen.write(".dockerignore", "src/ignored*\n");
        kitchen.write("src/a", "one");
        kitchen.write("src/ignored", "never sent");
        let first = served.build(&["-t", "app"]).ok();
        assert!(first.stderr.contains("because it was never built here"), "{}", first.stderr);
        let second = served.build(&["-t", "app"]).ok();
        assert_eq!(second.missed(), 0, "{}", second.stderr);
        kitchen.write("src/a", "two");
        kitchen.write("src/ignored", "changed");
        let third = served.build(&["-t", "app"]).ok();
        assert!(third.stderr.contains("because src/a changed (content), 1 of 2 files"), "{}", third.stderr);
        let explained = served.larder(&["explain"]).ok().stdout;
        assert!(explained.contains("context: src/a (content)"), "{explained}");
        let json = served.larder(&["explain", "--format", "json"]).ok().stdout;
        assert!(json.lines().any(|l| l.contains("FilesChanged")), "{json}");
        // Builds, what they printed, images, what is held: all without waiting for the store.
        assert_eq!(served.larder(&["history", "ls", "--format", "json"]).ok().stdout.lines().count(), 3);
        assert!(served.larder(&["history", "logs"]).ok().stdout.contains("two"));
        assert!(served.larder(&["image", "ls"]).ok().stdout.contains("app:latest"));
        let archive = kitchen.path("app.tar");
        served.larder(&["image", "save", "app", "-o", archive.to_str().unwrap()]).ok();
        served.larder(&["image", "import", "again", archive.to_str().unwrap()]).ok();
        assert!(served.larder(&["image", "ls"]).ok().stdout.contains("again:latest"));
        served.larder(&["image", "rm", "again"]).ok();
        assert_eq!(served.larder(&["image", "rm", "again"]).code, 1);
        assert!(served.larder(&["du"]).ok().stdout.contains("COPY src /src"));
        served.larder(&["prune", "--force", "--all"]).ok();
        served.larder(&["history", "rm", "--all"]).ok();
        assert_eq!(served.larder(&["history", "ls", "--format", "json"]).ok().stdout, "");
    });
}

#[test]
fn exit_codes_are_the_same() {
    each(|kitchen, served| {
        kitchen.write("Dockerfile", "FROM base AS deps\nRUN true\nFROM deps\nRUN echo why >&2; exit 7\n");
        let failed = served.build(&[]);
        assert_eq!(failed.code, 1, "{}", failed.stderr);
        assert!(failed.stderr.contains("why") && failed.stderr.contains("exit code: 7"), "{}", failed.stderr);
        assert!(failed.stderr.contains("error: [stage-1 1/1] RUN echo why"), "{}", failed.stderr);
        kitchen.write("Dockerfile", "FROM base\nRUM true\n");
        let wrong = served.build(&[]);
        assert_eq!(wrong.code, 2, "{}", wrong.stderr);
        assert!(wrong.stderr.contains("did you mean RUN?") && wrong.stderr.contains("^^^"), "{}", wrong.stderr);
        kitchen.write("Dockerfile", "FROM base AS deps\nRUN echo deps\nFROM deps AS app\nRUN echo app\n");
        let missed = served.build(&["--fail-on-miss=deps"]);
        assert_eq!(missed.code, 3, "{}", missed.stderr);
        assert!(missed.stderr.contains("RUN echo deps") && missed.stderr.contains("because"), "{}", missed.stderr);
        served.build(&[]).ok();
        served.build(&["--fail-on-miss"]).ok();
        assert_eq!(served.larder(&["history", "inspect", "none"]).code, 2);
        assert_eq!(served.larder(&["du", "--filter", "description~=("]).code, 2);
    });
}

#[test]
fn ctrl_c_ends_the_step() {
    each(|kitchen, served| {
        let mark = format!("sleep 4{:07}", std::process::id());
        kitchen.write("Dockerfile", &format!("FROM base\nRUN {mark}\n"));
        let context = kitchen.context();
        let child = served.command(&["build", context.to_str().unwrap()]).stderr(Stdio::null()).spawn();
        let mut child = child.unwrap();
        let runs = || {
            let all = std::fs::read_dir("/proc").unwrap().flatten();
            let found = all.filter(|p| {
                std::fs::read(p.path().join("cmdline"))
                    .is_ok_and(|c| String::from_utf8_lossy(&c).replace('\0', " ").starts_with(&mark))
            });
            found.count()
        };
        let eventually = |what: &str, ready: &dyn Fn() -> bool| {
            let begun = Instant::now();
            while !ready() {
                assert!(begun.elapsed() < Duration::from_secs(20), "{what}");
                std::thread::sleep(Duration::from_millis(20));
            }
        };
        eventually("the step never slept", &|| runs() > 0);
        rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::INT).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(130));
        eventually("the step runs on", &|| runs() == 0);
    });
}

#[test]
fn outputs_secrets_and_inputs_cross_the_session() {
    each(|kitchen, served| {
        let text = "FROM base\nCOPY --from=more m /m\nCOPY sub /sub\n\
            RUN --mount=type=secret,id=tok test \"$(cat /run/secrets/tok)\" = hush\n\
            RUN ln /sub/f /sub/g && ln -s f /sub/l && chmod 750 /sub\n";
        kitchen.write("Dockerfile", text);
        kitchen.write("sub/f", "content");
        let (more, secret) = (kitchen.path("more"), kitchen.path("tok"));
        std::fs::create_dir(&more).unwrap();
        std::fs::write(more.join("m"), "named context").unwrap();
        std::fs::write(&secret, "hush").unwrap();
        let out = kitchen.path("out");
        std::fs::create_dir(&out).unwrap();
        std::fs::write(out.join("mine"), "stays").unwrap();
        let (context, secret) = (format!("more={}", more.display()), format!("id=tok,src={}", secret.display()));
        let given = ["--build-context", &context, "--secret", &secret];
        served.build(&[&given[..], &["-o", out.to_str().unwrap()]].concat()).ok();
        assert_eq!(std::fs::read_to_string(out.join("sub/g")).unwrap(), "content");
        assert_eq!(std::fs::read_link(out.join("sub/l")).unwrap().to_str(), Some("f"));
        assert_eq!(std::fs::read_to_string(out.join("m")).unwrap(), "named context");
        assert_eq!(std::fs::read_to_string(out.join("mine")).unwrap(), "stays");
        let (file, metadata) = (kitchen.path("app.tar"), kitchen.path("metadata.json"));
        let output = format!("type=oci,dest={}", file.display());
        let outputs = ["-o", &output, "-t", "app", "--metadata-file", metadata.to_str().unwrap(), "--quiet"];
        let quiet = served.build(&[&given[..], &outputs].concat()).ok();
        assert!(quiet.stdout.starts_with("sha256:"), "{}", quiet.stdout);
        let value: serde_json::Value = serde_json::from_slice(&std::fs::read(metadata).unwrap()).unwrap();
        assert_eq!(value["containerimage.config.digest"].as_str(), Some(quiet.stdout.trim()));
        let provenance = &value["buildx.build.provenance"];
        assert_eq!(provenance["invocation"]["parameters"]["frontend"], "dockerfile.v0", "{value}");
        assert!(provenance.get("metadata").is_none(), "{provenance}");
        assert!(std::fs::metadata(file).unwrap().len() > 1 << 20);
    });
}

/// A daemon that starts while commands want the store: nobody waits for its end.
#[test]
fn a_socket_left_by_a_dead_daemon_is_passed_over() {
    let Some(kitchen) = Kitchen::new() else { return };
    kitchen.write("Dockerfile", "FROM base\nRUN true\n");
    drop(std::os::unix::net::UnixListener::bind(kitchen.root().join("larder.sock")).unwrap());
    kitchen.build(&[]).ok();
    let served = Served::start(&kitchen, None, &[]);
    served.build(&[]).ok();
}
