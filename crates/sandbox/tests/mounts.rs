//! Mounts inside the root: what they show, whom they obey, and that they leave nothing in the layer.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;

use sandbox::{Dns, Error, Host, Mount, MountKind, Root};

use crate::machine::{Machine, tree};

fn mount(dest: &str, kind: MountKind, readonly: bool) -> Mount {
    Mount { dest: dest.into(), kind, readonly }
}

fn bind(source: impl Into<PathBuf>) -> MountKind {
    MountKind::Bind { source: source.into(), selector: PathBuf::new() }
}

fn tmpfs() -> MountKind {
    MountKind::Tmpfs { size: None, mode: 0o1777 }
}

fn secret(text: &str, uid: u32, mode: u32) -> MountKind {
    MountKind::Secret { bytes: text.into(), uid, gid: uid, mode }
}

/// What an empty step leaves in a layer over the base: the three folders that BuildKit leaves too.
const SYSTEM: [&str; 0] = [];

#[test]
fn hosts_and_resolv_conf_leave_no_trace() {
    let Some(m) = Machine::new("hosts") else { return };
    let before = fs::metadata(m.base().join("etc")).unwrap();
    let mut spec =
        m.sh("cat /etc/hosts /etc/resolv.conf; echo x >> /etc/hosts && echo wrote; rm -f /etc/hosts 2>/dev/null; true");
    spec.hostname = "box".into();
    spec.hosts = vec![Host { name: "db".into(), ip: "10.1.2.3".parse().unwrap() }];
    spec.dns =
        Dns { nameservers: vec!["9.9.9.9".into()], search: vec!["a.test".into()], options: vec!["ndots:1".into()] };
    let want = "127.0.0.1\tlocalhost box\n::1\tlocalhost ip6-localhost ip6-loopback\n10.1.2.3\tdb\n\
                nameserver 9.9.9.9\nsearch a.test\noptions ndots:1\n";
    assert_eq!(m.prints_in(&spec), want);
    let left = tree(&m.upper());
    assert_eq!(left.iter().filter(|p| p.contains('/')).count(), 0, "{left:?}");
    if let Ok(etc) = fs::metadata(m.upper().join("etc")) {
        let times = |m: &fs::Metadata| (m.mtime(), m.mtime_nsec(), m.mode());
        assert_eq!(times(&etc), times(&before), "a copied directory tells nothing");
    }
}

#[test]
fn binds_obey_and_select() {
    let Some(m) = Machine::new("binds") else { return };
    let source = m.dir.path().join("source");
    fs::create_dir_all(source.join("sub/deep")).unwrap();
    fs::write(source.join("sub/deep/file"), "content").unwrap();
    symlink("/etc/passwd", source.join("sub/out")).unwrap();
    symlink("/sub/deep", source.join("inside")).unwrap();
    let mut spec =
        m.sh("cat /in/sub/deep/file; (echo x > /in/new) 2>/dev/null || echo read-only; cat /one; echo y > /out/made");
    spec.mounts = vec![
        mount("/in", bind(&source), true),
        mount("/one", bind(source.join("sub/deep/file")), true),
        mount("/out", bind(&source), false),
    ];
    assert_eq!(m.prints_in(&spec), "contentread-only\ncontent");
    assert_eq!(fs::read_to_string(source.join("made")).unwrap(), "y\n");
    assert_eq!(tree(&m.upper()), SYSTEM);

    let mut spec = m.sh("ls /in; cat /in/file");
    let select = |selector: &str| MountKind::Bind { source: source.clone(), selector: selector.into() };
    for selector in ["sub/deep", "/sub/deep", "inside", "../../sub/deep"] {
        spec.mounts = vec![mount("/in", select(selector), true)];
        assert_eq!(m.prints_in(&spec), "file\ncontent", "{selector}");
        spec.root = m.root();
    }
    spec.mounts = vec![mount("/in", select("sub/out"), true)];
    let text = m.try_run(&spec).unwrap_err().to_string();
    assert!(text.contains("/in") && text.contains("No such file"), "an absolute link stays inside the source: {text}");
}

#[test]
fn tmpfs_with_its_size_and_mode() {
    let Some(m) = Machine::new("tmpfs") else { return };
    let mut spec =
        m.sh("stat -c %a /fast; df -k /fast | tail -1 | tr -s ' ' | cut -d' ' -f2; echo x > /fast/x; ls /fast");
    spec.mounts = vec![mount("/fast", MountKind::Tmpfs { size: Some(1 << 20), mode: 0o700 }, false)];
    assert_eq!(m.prints_in(&spec), "700\n1024\nx\n");
    assert_eq!(tree(&m.upper()), SYSTEM);
}

#[test]
fn secrets_lie_in_memory_and_are_read_only() {
    let Some(m) = Machine::new("secrets") else { return };
    let mut spec = m.sh(
        "stat -c '%u:%g %a' /run/secrets/token; cat /run/secrets/token; (echo x > /run/secrets/token) 2>/dev/null || echo ro; \
         grep /run/secrets/token /proc/self/mountinfo | cut -d' ' -f9,6",
    );
    spec.mounts = vec![mount("/run/secrets/token", secret("s3cret\n", 1000, 0o400), true)];
    let out = m.prints_in(&spec);
    assert_eq!(out, "1000:1000 400\ns3cret\nro\nro,nosuid,nodev,noexec,relatime none\n");
    assert_eq!(tree(&m.upper()), SYSTEM, "neither the file nor its folders stay");
    spec.root = m.root();
    spec.remove_stub_parents = false;
    m.run(&spec);
    assert_eq!(tree(&m.upper()), ["run", "run/secrets"], "as older frontends ask for it");
}

#[test]
fn snapshots_mounted_inside() {
    let Some(m) = Machine::new("mounted snapshots") else { return };
    let layer = |name: &str, files: &[(&str, &str)]| {
        let dir = m.dir.path().join(name);
        for (file, content) in files {
            fs::create_dir_all(dir.join(file).parent().unwrap()).unwrap();
            fs::write(dir.join(file), content).unwrap();
        }
        dir
    };
    let low = layer("low", &[("a/x", "low"), ("a/y", "low")]);
    let high = layer("high", &[("a/x", "high")]);
    let (upper, work) = (m.dir.path().join("u2"), m.dir.path().join("w2"));
    fs::create_dir(&upper).unwrap();
    fs::create_dir(&work).unwrap();
    let ro = Root::read_only(vec![high.clone(), low.clone()]);
    let rw = Root::writable(vec![high, low.clone()], &upper, work);
    let overlay = |root: &Root, selector: &str| MountKind::Overlay { root: root.clone(), selector: selector.into() };
    let mut spec =
        m.sh("cat /ro/a/x /ro/a/y /part/x /single/a/x; echo new > /rw/a/z; (echo x > /part/x) 2>/dev/null || echo ro");
    spec.mounts = vec![
        mount("/ro", overlay(&ro, ""), true),
        mount("/part", overlay(&ro, "/a"), true),
        mount("/single", overlay(&Root::read_only(vec![low]), ""), false),
        mount("/rw", overlay(&rw, "/"), false),
    ];
    assert_eq!(m.prints_in(&spec), "highlowhighlowro\n");
    assert_eq!(tree(&upper), ["a", "a/z"]);
    assert_eq!(tree(&m.upper()), SYSTEM);
}

#[test]
fn mounts_in_mounts_and_what_they_hide() {
    let Some(m) = Machine::new("nested mounts") else { return };
    let cache = m.dir.path().join("cache");
    fs::create_dir(&cache).unwrap();
    let mut spec = m.sh("echo x > /c/t/x; cat /c/t/s; ls /c/t; ls /dev/extra; cat /run/s");
    spec.mounts = vec![
        mount("/c", bind(&cache), false),
        mount("/c/t", tmpfs(), false),
        mount("/c/t/s", secret("one\n", 0, 0o400), true),
        mount("/dev/extra", tmpfs(), false),
        mount("/run", tmpfs(), false),
        mount("/run/s", secret("two\n", 0, 0o400), true),
    ];
    assert_eq!(m.prints_in(&spec), "one\ns\nx\ntwo\n");
    assert_eq!(tree(&m.upper()), SYSTEM);
    assert_eq!(tree(&cache), ["t"], "a mount point in a volume stays, as with BuildKit");
}

#[test]
fn a_stub_that_was_filled_or_was_there_stays() {
    let Some(m) = Machine::new("stubs") else { return };
    let source = m.dir.path().join("source");
    fs::create_dir(&source).unwrap();
    let lower = m.dir.path().join("lower");
    fs::create_dir_all(lower.join("empty/already")).unwrap();
    let mut spec = m.sh("echo x > /a/other");
    spec.mounts = vec![
        mount("/a/b", bind(&source), false),
        mount("/deep/er/est", bind(&source), false),
        mount("/empty/already", bind(&source), false),
    ];
    spec.root = m.root_over(vec![lower, m.base().to_path_buf()]);
    m.run(&spec);
    assert_eq!(tree(&m.upper()), ["a", "a/other"]);
}

#[test]
fn hostile_links_do_not_lead_out() {
    let Some(m) = Machine::new("hostile links") else { return };
    let outside = m.dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    let lower = m.dir.path().join("lower");
    fs::create_dir_all(lower.join("etc")).unwrap();
    symlink(&outside, lower.join("escape")).unwrap();
    symlink("../../../../../../..", lower.join("up")).unwrap();
    symlink("/loop", lower.join("loop")).unwrap();
    symlink("../run/systemd/resolve/stub-resolv.conf", lower.join("etc/resolv.conf")).unwrap();
    let mut spec = m.sh("true");
    let root = || m.root_over(vec![lower.clone(), m.base().to_path_buf()]);
    spec.root = root();
    spec.mounts =
        vec![mount("/escape/here", tmpfs(), false), mount(&format!("/up{}/there", outside.display()), tmpfs(), false)];
    m.run(&spec);
    assert_eq!(tree(&outside), Vec::<String>::new());
    let left = tree(&m.upper());
    assert!(!left.iter().any(|p| p.ends_with("here") || p.ends_with("there") || p.starts_with("run")), "{left:?}");

    spec.root = root();
    spec.mounts = vec![mount("/loop/x", tmpfs(), false)];
    let error = m.try_run(&spec).unwrap_err();
    assert!(matches!(&error, Error::Path { source, .. } if source.raw_os_error() == Some(40)), "{error}");
}

#[test]
fn read_only_roots() {
    let Some(m) = Machine::new("read-only root") else { return };
    let mut spec = m.sh("(echo x > /x) 2>/dev/null || echo no; echo y > /out/y; cat /etc/hosts | wc -l");
    spec.readonly_root = true;
    spec.mounts = vec![mount("/out", tmpfs(), false)];
    assert_eq!(m.prints_in(&spec), "no\n2\n");
    spec.root = Root::read_only(vec![m.base().to_path_buf()]);
    let error = m.try_run(&spec).unwrap_err().to_string();
    assert!(error.contains("/proc") && error.contains("Read-only"), "without an upper nothing can be made: {error}");
}

#[test]
fn a_root_of_one_directory_or_of_many() {
    let Some(m) = Machine::new("roots") else { return };
    let mut lower = Vec::new();
    for n in 0..130 {
        let dir = m.dir.path().join(format!("layer{n}"));
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join(format!("f{n}")), "").unwrap();
        fs::write(dir.join("top"), n.to_string()).unwrap();
        lower.insert(0, dir);
    }
    lower.push(m.base().to_path_buf());
    let mut spec = m.sh("cat /top; ls / | grep -c ^f");
    spec.root = m.root_over(lower);
    assert_eq!(m.prints_in(&spec), "129130\n");

    let plain = m.dir.path().join("plain");
    crate::machine::fill(&plain);
    fs::set_permissions(&plain, fs::Permissions::from_mode(0o755)).unwrap();
    spec = m.sh("echo x > /made; cat /etc/hosts | wc -l");
    spec.root = Root::writable(vec![], &plain, m.dir.path().join("work"));
    assert_eq!(m.prints_in(&spec), "2\n");
    assert!(plain.join("made").exists() && !plain.join("etc/hosts").exists());
}

#[test]
fn a_socket_is_bound_like_a_file() {
    let Some(m) = Machine::new("sockets") else { return };
    let path = m.dir.path().join("agent.sock");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    std::os::unix::fs::chown(&path, Some(1000), Some(1001)).unwrap();
    let answer = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        std::io::Write::write_all(&mut stream, b"hello from the agent\n").unwrap();
    });
    let dest = "/run/buildkit/ssh_agent.0";
    let mut spec = m.sh(&format!("stat -c '%F %u:%g' {dest}; nc local:{dest} </dev/null"));
    spec.mounts = vec![mount(dest, bind(&path), false)];
    let ran = m.run(&spec);
    if ran.out.contains("hello") {
        answer.join().unwrap();
    } else {
        eprintln!("SKIPPED: speaking through the socket: this busybox has no nc for unix sockets: {}", ran.err);
    }
    assert!(ran.out.starts_with("socket 1000:1001\n"), "{ran:?}");
    assert_eq!(tree(&m.upper()), SYSTEM);
}
