//! Steps with several outputs, as clients make them from a process that writes to more than its root: each output is found
//! again for itself, here and in caches.

use prost::Message;
use proto::pb;

use crate::kitchen::Kitchen;
use crate::named::Named;

/// Output 0 of a process is its root, output 1 its folder `/wd`.
const FOLDER: i64 = 1;

fn input(bytes: &[u8], index: i64) -> pb::Input {
    pb::Input { digest: oci::Digest::of(bytes).to_string(), index }
}

fn process(command: &str, inputs: Vec<pb::Input>) -> Vec<u8> {
    let meta = pb::Meta {
        args: ["/bin/sh", "-c", command].map(str::to_owned).to_vec(),
        cwd: "/wd".to_owned(),
        ..pb::Meta::default()
    };
    let root = pb::Mount { dest: "/".to_owned(), ..pb::Mount::default() };
    let from = if inputs.len() > 1 { 1 } else { -1 };
    let folder = pb::Mount { dest: "/wd".to_owned(), input: from, output: FOLDER, ..pb::Mount::default() };
    let exec = pb::ExecOp { meta: Some(meta), mounts: vec![root, folder], ..pb::ExecOp::default() };
    pb::Op { inputs, op: Some(pb::op::Op::Exec(exec)), ..pb::Op::default() }.encode_to_vec()
}

/// Two processes that write to the same folder, and one output of the second.
fn graph(output: i64) -> Vec<u8> {
    let identifier = "docker-image://docker.io/library/base:latest".to_owned();
    let source = pb::SourceOp { identifier, ..pb::SourceOp::default() };
    let source = pb::Op { op: Some(pb::op::Op::Source(source)), ..pb::Op::default() }.encode_to_vec();
    let first = process("echo const > const", vec![input(&source, 0)]);
    let unique = "head -c 100 /dev/urandom | sha256sum > unique; cp unique /of-root";
    let second = process(unique, vec![input(&source, 0), input(&first, FOLDER)]);
    let last = pb::Op { inputs: vec![input(&second, output)], ..pb::Op::default() }.encode_to_vec();
    pb::Definition { def: vec![source, first, second, last], ..pb::Definition::default() }.encode_to_vec()
}

/// Builds an output; gives a file of it.
fn build(kitchen: &Kitchen, named: &Named<'_>, output: i64, file: &str, args: &[&str]) -> String {
    let out = kitchen.path("out");
    let _ = std::fs::remove_dir_all(&out);
    let to = format!("type=local,dest={}", out.display());
    named.feed(&[&["build", "--progress=plain", "--output", &to], args].concat(), &graph(output)).ok();
    std::fs::read_to_string(out.join(file)).unwrap()
}

#[test]
fn each_is_found_again_here() {
    let Some(kitchen) = Kitchen::new() else { return };
    let named = Named::new(&kitchen);
    let _daemon = named.start(&[]);
    let unique = build(&kitchen, &named, FOLDER, "unique", &[]);
    assert_eq!(build(&kitchen, &named, FOLDER, "const", &[]), "const\n");
    assert_eq!(build(&kitchen, &named, FOLDER, "unique", &[]), unique);
    // The other output was made by the same run.
    assert_eq!(build(&kitchen, &named, 0, "of-root", &[]), unique);
}

#[test]
fn each_is_found_again_in_a_cache() {
    let Some(kitchen) = Kitchen::new() else { return };
    let Some(registry) = testkit::registry::start() else { return };
    let named = Named::new(&kitchen);
    let _daemon = named.start(&[]);
    for mode in ["min", "max"] {
        let to = format!("type=registry,ref={}/several:{mode},mode={mode}", registry.host);
        let from = format!("type=registry,ref={}/several:{mode}", registry.host);
        let unique = build(&kitchen, &named, FOLDER, "unique", &["--export-cache", &to]);
        named.buildctl(&["prune", "--all"]).ok();
        let imported = build(&kitchen, &named, FOLDER, "unique", &["--import-cache", &from]);
        assert_eq!(imported, unique, "mode={mode}");
        // What was not wanted is in a cache only when all is.
        let of_root = build(&kitchen, &named, 0, "of-root", &["--import-cache", &from]);
        assert_eq!(of_root == unique, mode == "max", "mode={mode}");
        named.buildctl(&["prune", "--all"]).ok();
    }
}
