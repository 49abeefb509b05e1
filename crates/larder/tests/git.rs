//! Git repositories as sources, served by `git daemon` on loopback: what is fetched, what becomes of it, what is refused.

use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::kitchen::Kitchen;

/// A server with repositories.
struct Server {
    folder: TempDir,
    port: u16,
    daemon: Child,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Server {
    fn new() -> Server {
        let folder = tempfile::tempdir().unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        // The program itself: `git daemon` would leave it behind when it is killed.
        let programs = Command::new("git").arg("--exec-path").output().unwrap().stdout;
        let program = Path::new(String::from_utf8_lossy(&programs).trim()).join("git-daemon");
        let daemon = Command::new(program)
            .args(["--listen=127.0.0.1", "--reuseaddr", "--export-all", "--log-destination=none"])
            .arg(format!("--port={port}"))
            .arg(format!("--base-path={}", folder.path().display()))
            .arg(folder.path())
            .env("GIT_CONFIG_COUNT", "1")
            .env("GIT_CONFIG_KEY_0", "safe.directory")
            .env("GIT_CONFIG_VALUE_0", "*")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        Server { folder, port, daemon }
    }

    fn stop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }

    fn url(&self, name: &str) -> String {
        format!("git://127.0.0.1:{}/{name}.git", self.port)
    }

    fn repository(&self, name: &str) -> Repository {
        let path = self.folder.path().join(format!("{name}.git"));
        let repository = Repository { path };
        std::fs::create_dir(&repository.path).unwrap();
        repository.git(&["init", "--quiet", "-b", "trunk"]);
        repository
    }
}

struct Repository {
    path: PathBuf,
}

impl Repository {
    fn git(&self, args: &[&str]) -> String {
        let output = Command::new("git")
            .args(["-c", "user.name=t", "-c", "user.email=t@t", "-c", "protocol.file.allow=always"])
            .args(args)
            .current_dir(&self.path)
            .env("HOME", "/nonexistent")
            .env("GIT_COMMITTER_DATE", "1700000000 +0000")
            .env("GIT_AUTHOR_DATE", "1700000000 +0000")
            .output()
            .unwrap();
        assert!(output.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// Commits everything; the commit.
    fn commit(&self) -> String {
        self.git(&["add", "-A"]);
        self.git(&["commit", "--quiet", "--allow-empty", "-m", "change"]);
        self.git(&["rev-parse", "HEAD"])
    }
}

fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display())).trim().to_owned()
}

#[test]
fn a_tree_of_a_commit() {
    let Some(kitchen) = Kitchen::new() else { return };
    let server = Server::new();
    let repository = server.repository("app");
    repository.write("run", "#!/bin/sh\n");
    std::fs::set_permissions(repository.path.join("run"), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    repository.write("sub/deep/file", "one");
    std::os::unix::fs::symlink("run", repository.path.join("link")).unwrap();
    let first = repository.commit();
    repository.git(&["tag", "-a", "v1", "-m", "one"]);
    repository.write("sub/deep/file", "two");
    let second = repository.commit();
    let url = server.url("app");
    let dockerfile = format!(
        "FROM scratch\nADD {url} /default/\nADD {url}#v1:sub /tag/\nADD {url}#{first}:sub/deep /commit/\n\
         ADD --checksum={second} {url}#trunk /branch/\n"
    );
    kitchen.write("Dockerfile", &dockerfile);
    let out = kitchen.files(&[]);
    assert_eq!(text(&out.join("default/sub/deep/file")), "two");
    assert_eq!(text(&out.join("tag/deep/file")), "one");
    assert_eq!(text(&out.join("commit/file")), "one");
    assert_eq!(text(&out.join("branch/sub/deep/file")), "two");
    let data = std::fs::metadata(out.join("default/run")).unwrap();
    assert_eq!((data.mode() & 0o7777, data.uid(), data.gid()), (0o755, 0, 0));
    let file = std::fs::metadata(out.join("default/sub/deep/file")).unwrap();
    assert_eq!((file.mode() & 0o7777, file.mtime()), (0o644, 1_700_000_000));
    assert_eq!(std::fs::read_link(out.join("default/link")).unwrap(), Path::new("run"));
    assert!(!out.join("default/.git").exists());
}

#[test]
fn a_branch_that_moves_and_a_server_that_is_gone() {
    let Some(kitchen) = Kitchen::new() else { return };
    let mut server = Server::new();
    let repository = server.repository("app");
    repository.write("f", "one");
    let first = repository.commit();
    let url = server.url("app");
    kitchen.write("Dockerfile", &format!("FROM scratch\nADD {url} /\n"));
    kitchen.build(&[]).ok();
    assert_eq!(kitchen.build(&[]).ok().missed(), 0);
    repository.write("f", "two");
    let second = repository.commit();
    let out = kitchen.files(&[]);
    assert_eq!(text(&out.join("f")), "two");
    assert_eq!(kitchen.cause("ADD"), "SourceMoved");
    let said = kitchen.larder(&["explain"]).ok().stdout;
    let moved = format!("because {url} moved {} → {}", &first[..12], &second[..12]);
    assert!(said.contains(&moved), "{moved}\n{said}");
    // A force push: the old commit is in our copy, and its name is enough.
    repository.git(&["commit", "--quiet", "--amend", "-m", "other"]);
    assert_eq!(kitchen.build(&[]).ok().missed(), 0, "the same tree is the same content");
    server.stop();
    kitchen.write("Dockerfile", &format!("FROM base\nADD {url}#{first} /app/\n"));
    let out = kitchen.files(&[]);
    assert_eq!(text(&out.join("app/f")), "one");
    kitchen.write("Dockerfile", &format!("FROM scratch\nADD {url} /\n"));
    let ran = kitchen.build(&[]);
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("can't ask git://127.0.0.1"), "{}", ran.stderr);
}

#[test]
fn submodules() {
    let Some(kitchen) = Kitchen::new() else { return };
    let server = Server::new();
    let inner = server.repository("inner");
    inner.write("i", "inner one");
    inner.commit();
    let outer = server.repository("outer");
    outer.git(&["submodule", "--quiet", "add", &inner.path.display().to_string(), "mod"]);
    outer.git(&["config", "-f", ".gitmodules", "submodule.mod.url", "../inner.git"]);
    let first = outer.commit();
    inner.write("i", "inner two");
    inner.commit();
    outer.git(&["submodule", "--quiet", "update", "--remote"]);
    let second = outer.commit();
    let url = server.url("outer");
    for (commit, expected) in [(&first, "inner one"), (&second, "inner two"), (&first, "inner one")] {
        kitchen
            .write("Dockerfile", &format!("FROM scratch\nADD {url}#{commit} /{expected}/\n").replace("inner ", "o-"));
        let out = kitchen.files(&["--no-cache"]);
        let folder = out.join(expected.replace("inner ", "o-"));
        assert_eq!(text(&folder.join("mod/i")), expected);
        assert!(!folder.join("mod/.git").exists() && !folder.join(".git").exists());
    }
    kitchen.write("Dockerfile", &format!("FROM scratch\nADD --keep-git-dir {url}#{second} /kept/\n"));
    let out = kitchen.files(&[]);
    assert_eq!(text(&out.join("kept/mod/i")), "inner two");
    // What a repository calls a submodule must not be a file of the builder's.
    let other = server.repository("other");
    other.git(&["submodule", "--quiet", "add", &inner.path.display().to_string(), "mod"]);
    other.commit();
    kitchen.write("Dockerfile", &format!("FROM scratch\nADD {} /\n", server.url("other")));
    let ran = kitchen.build(&[]);
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    assert!(ran.stderr.contains("transport 'file' not allowed"), "{}", ran.stderr);
}

#[test]
fn a_kept_repository() {
    let Some(kitchen) = Kitchen::new() else { return };
    let server = Server::new();
    let repository = server.repository("app");
    repository.write("f", "one");
    let commit = repository.commit();
    repository.git(&["tag", "-a", "v1", "-m", "one"]);
    let url = server.url("app");
    kitchen.write("Dockerfile", &format!("FROM scratch\nADD --keep-git-dir {url}#v1 /app/\n"));
    let out = kitchen.files(&[]).join("app");
    let git = |args: &[&str]| {
        let output = Command::new("git").arg("-C").arg(&out).args(args).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    };
    assert_eq!(git(&["rev-parse", "HEAD"]), commit);
    assert_eq!(git(&["describe", "--dirty"]), "v1");
    assert_eq!(git(&["remote", "get-url", "origin"]), url);
    assert!(!out.join(".git/FETCH_HEAD").exists());
}

/// The Dockerfile and the context are of one repository; a named context is of another folder of it.
#[test]
fn contexts() {
    let Some(kitchen) = Kitchen::new() else { return };
    let server = Server::new();
    let repository = server.repository("app");
    repository
        .write("app/Dockerfile", "FROM base\nCOPY . /app\nCOPY --from=more /g /more/\nCOPY --from=plain /context /\n");
    repository.write("app/f", "from git");
    repository.write("more/g", "named");
    repository.commit();
    let web = web(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nweb".to_vec());
    let (url, out) = (server.url("app"), kitchen.path("out"));
    let (more, plain) = (format!("more={url}#trunk:more"), format!("plain={web}/file"));
    let output = format!("type=local,dest={}", out.display());
    let context = format!("{url}#trunk:app");
    let args = ["build", "-o", &output, "--build-context", &more, "--build-context", &plain, &context];
    kitchen.larder(&args).ok();
    assert_eq!(text(&out.join("app/f")), "from git");
    assert_eq!(text(&out.join("more/g")), "named");
    assert_eq!(text(&out.join("context")), "web");
    let again = kitchen.larder(&[
        "build",
        "--progress",
        "plain",
        "--build-context",
        &more,
        "--build-context",
        &plain,
        &context,
    ]);
    let said = again.ok().stderr;
    assert!(said.contains("[internal] load git source") && !said.contains(" because "), "{said}");
    let ran = kitchen.larder(&["build", &format!("{url}#trunk:more")]);
    // As where a folder here has no Dockerfile.
    assert_eq!(ran.code, 2);
    assert!(ran.stderr.contains("Dockerfile"), "{}", ran.stderr);
}

/// A server that answers every request with `response`.
fn web(response: Vec<u8>) -> String {
    answering(move || response.clone())
}

/// A server that answers every request with what `answer` gives then.
pub fn answering(mut answer: impl FnMut() -> Vec<u8> + Send + 'static) -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                if stream.read(&mut byte).unwrap_or(0) == 0 {
                    break;
                }
                request.push(byte[0]);
            }
            let _ = stream.write_all(&answer());
        }
    });
    url
}

/// A digest as causes show it.
fn short(bytes: &[u8]) -> String {
    format!("sha256:{}", oci::Digest::of(bytes).short())
}

/// An archive: from the web, and on standard input.
#[test]
fn archives_as_contexts() {
    let Some(kitchen) = Kitchen::new() else { return };
    kitchen.write("Dockerfile", "FROM scratch\nCOPY f /\n");
    let pack = |text: &str, how: &str| {
        kitchen.write("f", text);
        Command::new("tar").args([how, "."]).current_dir(kitchen.context()).output().unwrap().stdout
    };
    let on_web = pack("on the web", "-cz");
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", on_web.len());
    let url = format!("{}/context.tar.gz", web([head.as_bytes(), &on_web].concat()));
    let out = kitchen.path("out");
    let output = format!("type=local,dest={}", out.display());
    kitchen.larder(&["build", "-o", &output, &url]).ok();
    assert_eq!(text(&out.join("f")), "on the web");
    let (packed, anew) = (pack("packed", "-cz"), pack("packed anew", "-c"));
    let moved = format!("because standard input moved {} → {}", short(&packed), short(&anew));
    for (input, expected) in
        [(packed, "packed"), (anew, "packed anew"), (b"FROM scratch\nCOPY <<EOF /f\nalone\nEOF\n".to_vec(), "alone")]
    {
        std::fs::remove_dir_all(&out).unwrap();
        let mut build = kitchen.command(&kitchen.root(), &["build", "-o", &output, "-"]);
        let mut build = build.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        build.stdin.take().unwrap().write_all(&input).unwrap();
        crate::kitchen::Ran::of(build.wait_with_output().unwrap()).ok();
        assert_eq!(text(&out.join("f")), expected);
        if expected == "packed anew" {
            let said = kitchen.larder(&["explain"]).ok().stdout;
            assert!(said.contains(&moved), "{moved}\n{said}");
        }
    }
}

/// SOURCE_DATE_EPOCH of a context: a commit's time, the newest file of an archive.
#[test]
fn the_time_of_a_context() {
    let Some(kitchen) = Kitchen::new() else { return };
    let server = Server::new();
    let repository = server.repository("app");
    repository.write("Dockerfile", "FROM base\nARG SOURCE_DATE_EPOCH\nRUN echo $SOURCE_DATE_EPOCH > /epoch\n");
    repository.commit();
    kitchen.write("Dockerfile", "FROM base\nARG SOURCE_DATE_EPOCH\nRUN echo $SOURCE_DATE_EPOCH > /epoch\n");
    let touched =
        Command::new("touch").args(["-d", "@1600000000", "Dockerfile"]).current_dir(kitchen.context()).status();
    assert!(touched.unwrap().success());
    let packed = Command::new("tar").args(["-c", "Dockerfile"]).current_dir(kitchen.context()).output().unwrap().stdout;
    let answer = |header: &str| {
        let head = format!("HTTP/1.1 200 OK\r\n{header}Content-Length: {}\r\nConnection: close\r\n\r\n", packed.len());
        format!("{}/context.tar", web([head.as_bytes(), &packed].concat()))
    };
    let said = answer("Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT\r\n");
    for (context, time) in [(server.url("app"), 1_700_000_000), (said, 784_111_777), (answer(""), 1_600_000_000)] {
        let (out, image) = (kitchen.path("out"), kitchen.path("image.tar"));
        let _ = std::fs::remove_dir_all(&out);
        let output = format!("type=local,dest={}", out.display());
        let oci = format!("type=oci,dest={},tar=false,rewrite-timestamp=true", image.display());
        let epoch = ["--build-arg", "SOURCE_DATE_EPOCH=context"];
        kitchen.larder(&[&["build", "-o", &output, "-o", &oci], &epoch[..], &[&context]].concat()).ok();
        assert_eq!(text(&out.join("epoch")), time.to_string(), "{context}");
        assert_eq!(std::fs::metadata(out.join("epoch")).unwrap().mtime(), time, "{context}");
        let blob = |digest: &serde_json::Value| -> serde_json::Value {
            let hex = digest.as_str().unwrap().trim_start_matches("sha256:");
            serde_json::from_slice(&std::fs::read(image.join("blobs/sha256").join(hex)).unwrap()).unwrap()
        };
        let index: serde_json::Value =
            serde_json::from_slice(&std::fs::read(image.join("index.json")).unwrap()).unwrap();
        let manifest = blob(&index["manifests"][0]["digest"]);
        let layers = manifest["layers"].as_array().unwrap();
        let rewritten = |layer: &serde_json::Value| layer["annotations"]["buildkit/rewritten-timestamp"].clone();
        assert_eq!(rewritten(layers.last().unwrap()), time.to_string(), "{context}");
        // The base's layer is what everybody has.
        assert!(rewritten(&layers[0]).is_null(), "{manifest}");
        let config = blob(&manifest["config"]["digest"]);
        assert_eq!(config["created"], oci::time::rfc3339(time), "{context}");
    }
}

#[test]
fn what_is_refused() {
    let Some(kitchen) = Kitchen::new() else { return };
    let server = Server::new();
    let repository = server.repository("app");
    repository.write("f", "one");
    std::os::unix::fs::symlink("/", repository.path.join("out")).unwrap();
    let commit = repository.commit();
    let url = server.url("app");
    let absent = "0123456789012345678901234567890123456789";
    for (line, expected) in [
        (format!("ADD {url}#nope /"), "repository does not contain ref nope"),
        (format!("ADD {url}#{absent} /"), absent),
        (format!("ADD {url}#trunk:nothing /"), "the folder `nothing` of"),
        (format!("ADD {url}#trunk:out/etc /"), "the folder `out/etc` of"),
        (format!("ADD --checksum={absent} {url} /"), "expected checksum to match"),
        (format!("ADD --checksum={absent} {url}#{commit} /"), "expected checksum to match"),
        (format!("ADD {}#x /", server.url("none")), "can't ask"),
        (format!("ADD {url}#--upload-pack=x /"), "can't be the name of a git reference"),
    ] {
        kitchen.write("Dockerfile", &format!("FROM base\n{line}\n"));
        let ran = kitchen.build(&[]);
        assert_eq!(ran.code, 1, "{line}: {}", ran.stderr);
        assert!(ran.stderr.contains(expected), "{line}: {}", ran.stderr);
    }
    kitchen.write("Dockerfile", &format!("FROM base\nADD {url}?tag=v1#trunk /\n"));
    let ran = kitchen.build(&[]);
    assert_eq!(ran.code, 2);
    assert!(ran.stderr.contains("ref conflicts: \"trunk\" vs \"refs/tags/v1\""), "{}", ran.stderr);
}
