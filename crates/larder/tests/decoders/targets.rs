//! Every place where bytes of others come in, as a function of bytes that must end: with an answer or an error, never with a
//! panic, and with memory in proportion to what came. The fuzz crate (`fuzz/`) and the tests here use the same functions.

use std::path::Path;

use graph::wire;
use prost::Message;
use proto::files::Packet;

/// A name, the function, and bytes from which a fuzzer begins.
pub struct Target {
    pub name: &'static str,
    pub run: fn(&[u8]),
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All of them.
pub const ALL: [Target; 10] = [
    Target { name: "graph", run: graph, seeds: graphs },
    Target { name: "dockerfile", run: dockerfile, seeds: dockerfiles },
    Target { name: "ignore", run: ignore, seeds: ignores },
    Target { name: "cache", run: cache, seeds: caches },
    Target { name: "manifest", run: manifest, seeds: manifests },
    Target { name: "tar", run: tar, seeds: tars },
    Target { name: "packets", run: packets, seeds: transfers },
    Target { name: "config", run: config, seeds: configs },
    Target { name: "names", run: names, seeds: texts },
    Target { name: "requests", run: requests, seeds: asked },
];

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Pieces of the input, each with its length before it in one byte.
fn pieces(mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut found = Vec::new();
    while let Some((length, rest)) = bytes.split_first() {
        let (piece, rest) = rest.split_at(rest.len().min(usize::from(*length)));
        found.push(piece);
        bytes = rest;
    }
    found
}

fn joined(pieces: &[Vec<u8>]) -> Vec<u8> {
    pieces.iter().flat_map(|piece| [vec![piece.len() as u8], piece.clone()].concat()).collect()
}

/// A definition as it is; and operations put into an order in which their digests are right, so that what lies behind the
/// digests is reached as well.
pub fn graph(bytes: &[u8]) {
    if let Ok(definition) = proto::pb::Definition::decode(bytes) {
        let _ = daemon::decoders::graph(&definition);
    }
    let mut def: Vec<Vec<u8>> = Vec::new();
    for piece in pieces(bytes) {
        let Ok(mut op) = wire::Op::decode(piece) else { continue };
        let known: Vec<String> = def.iter().map(|bytes| oci::Digest::of(bytes).to_string()).collect();
        for (number, input) in op.inputs.iter_mut().enumerate().filter(|_| !known.is_empty()) {
            input.digest.clone_from(&known[number % known.len()]);
        }
        def.push(op.to_bytes());
    }
    if let Some(last) = def.last() {
        let input = wire::Input { digest: oci::Digest::of(last).to_string(), index: 0 };
        def.push(wire::Op { inputs: vec![input], ..wire::Op::default() }.to_bytes());
    }
    if let Ok(graph) = graph::Graph::decode(&wire::Definition { def, ..wire::Definition::default() }) {
        let again = graph::Graph::decode(&graph.encode()).expect("what was read can be read again");
        assert_eq!(again.encode().def.len(), graph.encode().def.len());
    }
}

fn graphs() -> Vec<Vec<u8>> {
    let source = wire::SourceOp { identifier: "docker-image://base".into(), ..Default::default() };
    let source = wire::Op { op: Some(wire::op::Op::Source(source)), ..Default::default() };
    let meta = wire::Meta { args: vec!["sh".into()], cwd: "/".into(), ..Default::default() };
    let mount = wire::Mount { dest: "/".into(), ..Default::default() };
    let exec = wire::ExecOp { meta: Some(meta), mounts: vec![mount], ..Default::default() };
    let input = || wire::Input { digest: String::new(), index: 0 };
    let exec = wire::Op { inputs: vec![input()], op: Some(wire::op::Op::Exec(exec)), ..Default::default() };
    let copy = wire::FileActionCopy { src: "/a".into(), dest: "/b".into(), mode: -1, ..Default::default() };
    let action = wire::FileAction {
        secondary_input: 1,
        action: Some(wire::file_action::Action::Copy(copy)),
        ..Default::default()
    };
    let file = wire::FileOp { actions: vec![action] };
    let file = wire::Op { inputs: vec![input(), input()], op: Some(wire::op::Op::File(file)), ..Default::default() };
    let merge = wire::MergeOp { inputs: vec![wire::MergeInput { input: 0 }, wire::MergeInput { input: 1 }] };
    let merge = wire::Op { inputs: vec![input(), input()], op: Some(wire::op::Op::Merge(merge)), ..Default::default() };
    vec![joined(&[source, exec, file, merge].map(|op| op.to_bytes()))]
}

/// The tree, and everything that is said of it.
pub fn dockerfile(bytes: &[u8]) {
    let (_, errors) = dockerfile::parse(bytes);
    let found = dockerfile::check(bytes, &[]);
    assert!(found.len() >= errors.len(), "an error was lost");
}

fn dockerfiles() -> Vec<Vec<u8>> {
    let texts = [
        "# syntax=docker/dockerfile:1\n# escape=`\nARG V=1\nFROM base:${V:-x} AS one\nRUN echo `\n  a\nCOPY --from=one --chown=1:2 a b /c/\n",
        "FROM a\nRUN <<EOF\necho $X ${X#a*} ${X//b/c}\nEOF\nCOPY <<-\"A\" <<B /d/\n\tx\nA\ny\nB\n",
        "FROM a\nRUN --mount=type=cache,id=x,sharing=locked,target=/c --mount=type=secret,id=s,env=S --network=none [\"a\", \"b\"]\n",
        "FROM a\nENV a=b c=\"d e\" f\\ g=h\nLABEL x y\nHEALTHCHECK --interval=1s CMD x\nONBUILD ADD --checksum=sha256:0 http://x /y\nEXPOSE 1-3/udp\n",
    ];
    texts.map(|text| text.as_bytes().to_vec()).to_vec()
}

/// Patterns, and a path that is held against them.
pub fn ignore(bytes: &[u8]) {
    let whole = text(bytes);
    let (list, path) = whole.rsplit_once('\n').unwrap_or((&whole, "a/b"));
    let patterns = dockerfile::ignore::patterns(list);
    if let Ok(patterns) = graph::pattern::Patterns::new(&patterns) {
        let path = graph::pattern::clean(path);
        let _ = (patterns.matches(&path), patterns.may_match_below(&path), patterns.may_except_below(&path));
    }
    let _ = graph::pattern::glob(list, path);
}

fn ignores() -> Vec<Vec<u8>> {
    ["# c\n*.log\n!keep.log\n/a/**/b?\n[a-c]\\*\na/b/c", "**\n!a\n!a/**\na/x", "[^]a-\\]]\n]"]
        .map(|t| t.as_bytes().to_vec())
        .to_vec()
}

/// The configuration of a cache from elsewhere.
pub fn cache(bytes: &[u8]) {
    let _ = solver::exchange::Config::parse(bytes);
    let layers = [oci::Digest::of(b"a"), oci::Digest::of(b"b")];
    let _ = solver::exchange::Config::parse_inline(bytes, &layers);
}

fn caches() -> Vec<Vec<u8>> {
    let digest = oci::Digest::of(b"a");
    let records = format!(
        "[{{\"digest\":\"{digest}\",\"results\":[{{\"layer\":0,\"createdAt\":\"2024-01-01T00:00:00Z\"}}]}},\
         {{\"digest\":\"{digest}\",\"inputs\":[[{{\"link\":0,\"selector\":\"{digest}\"}}]],\"chains\":[{{\"layers\":[0]}}]}}]"
    );
    let layers =
        format!("[{{\"blob\":\"{digest}\",\"parent\":-1,\"annotations\":{{\"mediaType\":\"x\",\"size\":1}}}}]");
    vec![format!("{{\"layers\":{layers},\"records\":{records}}}").into_bytes(), records.into_bytes()]
}

/// Manifests, indexes, image configurations, and what a cache's listing makes of them.
pub fn manifest(bytes: &[u8]) {
    for kind in [None, Some(oci::media::OCI_MANIFEST), Some(oci::media::OCI_INDEX), Some(oci::media::DOCKER_INDEX)] {
        if let Ok(document) = oci::ManifestOrIndex::decode(bytes, kind) {
            let _ = solver::exchange::Listing::read(&document);
        }
    }
    if let Ok(config) = serde_json::from_slice::<oci::ImageConfig>(bytes) {
        let _ = (config.platform(), config.chain_ids());
    }
}

fn manifests() -> Vec<Vec<u8>> {
    let digest = oci::Digest::of(b"a");
    let blob = format!("{{\"mediaType\":\"{}\",\"digest\":\"{digest}\",\"size\":3}}", oci::media::OCI_MANIFEST);
    vec![
        format!("{{\"schemaVersion\":2,\"config\":{blob},\"layers\":[{blob}],\"annotations\":{{\"a\":\"b\"}}}}").into_bytes(),
        format!("{{\"schemaVersion\":2,\"manifests\":[{blob}]}}").into_bytes(),
        format!("{{\"os\":\"linux\",\"architecture\":\"arm\",\"rootfs\":{{\"type\":\"layers\",\"diff_ids\":[\"{digest}\"]}}}}").into_bytes(),
    ]
}

/// A layer and an archive, as files in a store of its own. Nothing outside of the store may change.
pub fn tar(bytes: &[u8]) {
    let folder = tempfile::tempdir().expect("a folder");
    let (root, guard) = (folder.path().join("store"), folder.path().join("guard"));
    std::fs::write(&guard, "as it was").expect("a file");
    let store = store::Store::open(&root, store::Options::default()).expect("a store");
    let _ = store::layer::unpack(&store, None, bytes, "hostile");
    let mut file = tempfile::tempfile().expect("a file");
    std::io::Write::write_all(&mut file, bytes).expect("a file");
    let draft = store.snapshots().begin(None).expect("a draft");
    let _ = store::layer::unpack_archive(&file, &draft);
    assert_eq!(std::fs::read_to_string(&guard).expect("the file stays"), "as it was");
    assert!(root.join("snapshots").is_dir() && root.join("drafts").is_dir(), "an archive removed what is the store's");
}

fn tars() -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for names in [["a", "a/b"], ["../x", "/y"], [".wh.a", ".wh..wh..opq"], [".wh...", "d/.wh."]] {
        let mut builder = tar::Builder::new(Vec::new());
        for (number, name) in names.iter().enumerate() {
            let kinds =
                [tar::EntryType::Regular, tar::EntryType::Symlink, tar::EntryType::Link, tar::EntryType::Directory];
            for kind in kinds {
                let mut header = tar::Header::new_ustar();
                header.set_entry_type(kind);
                header.set_mode(0o644);
                header.set_size(if kind == tar::EntryType::Regular { 3 } else { 0 });
                header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
                let target: &[u8] = [b"../guard" as &[u8], b"a"][number];
                header.as_mut_bytes()[157..157 + target.len()].copy_from_slice(target);
                header.set_cksum();
                let content: &[u8] = if kind == tar::EntryType::Regular { b"abc" } else { b"" };
                builder.append(&header, content).expect("a tar");
            }
        }
        all.push(builder.into_inner().expect("a tar"));
    }
    all
}

/// What a client sends of a directory, packet by packet.
pub fn packets(bytes: &[u8]) {
    let folder = tempfile::tempdir().expect("a folder");
    let guard = folder.path().join("guard");
    std::fs::write(&guard, "as it was").expect("a file");
    let packets = pieces(bytes).into_iter().filter_map(|piece| Packet::decode(piece).ok());
    let _ = daemon::decoders::receive(&folder.path().join("mirror"), packets.collect());
    assert_eq!(std::fs::read_to_string(&guard).expect("the file stays"), "as it was");
    let data = std::fs::metadata(&guard).expect("the file stays");
    assert_eq!(std::os::unix::fs::MetadataExt::nlink(&data), 1, "a mirror has a file that is not the client's");
}

fn transfers() -> Vec<Vec<u8>> {
    use proto::files::Stat;
    use proto::files::packet::PacketType::{PacketData, PacketFin, PacketStat};
    let stat = |path: &str, mode: u32, linkname: &str| {
        let stat = Stat { path: path.into(), mode, size: 2, linkname: linkname.into(), ..Stat::default() };
        Packet { r#type: PacketStat as i32, stat: Some(stat), ..Packet::default() }
    };
    let bare = |kind| Packet { r#type: kind as i32, ..Packet::default() };
    let data = |id, text: &str| Packet { id, data: text.as_bytes().to_vec(), ..bare(PacketData) };
    let (folder, link) = (1 << 31 | 0o755, 1 << 27 | 0o777);
    let whole = [
        vec![stat("a", 0o644, ""), stat("d", folder, ""), stat("d/b", 0o600, ""), bare(PacketStat)],
        vec![data(0, "xy"), data(0, ""), data(2, "z"), data(2, ""), bare(PacketFin)],
    ];
    let hostile =
        vec![stat("l", link, ".."), stat("l/guard", 0o644, ""), stat("z", 0o644, "l/guard"), bare(PacketStat)];
    let encode = |packets: Vec<Packet>| joined(&packets.iter().map(Packet::encode_to_vec).collect::<Vec<_>>());
    vec![encode(whole.concat()), encode(hostile)]
}

/// buildkitd.toml.
pub fn config(bytes: &[u8]) {
    if let Ok((config, _)) = daemon::config::Config::parse(&text(bytes)) {
        let _ = config.oci().policy(store::lifecycle::Disk { total: 1 << 40, free: 1 << 30 });
        let _ = (config.frontends(), config.history.retention());
    }
}

fn configs() -> Vec<Vec<u8>> {
    let text = "root = \"/x\"\n[worker.oci]\nplatforms = [\"linux/arm64\"]\nmaxUsedSpace = \"20%\"\n[[worker.oci.gcpolicy]]\n\
        filters = [\"type==source.local\"]\nkeepDuration = \"48h\"\nkeepBytes = 10\n[registry.\"a:1\"]\nmirrors = [\"b\"]\n\
        [[registry.\"a:1\".keypair]]\nkey = \"k\"\ncert = \"c\"\n[history]\nmaxAge = 3\n";
    vec![text.as_bytes().to_vec()]
}

/// Names, addresses, filters and times that stand in requests and on command lines.
pub fn names(bytes: &[u8]) {
    let text = text(bytes);
    if let Ok(reference) = oci::Reference::parse(&text) {
        let again = oci::Reference::parse(&reference.to_string()).expect("a name that was read is a name");
        assert_eq!(again.to_string(), reference.to_string());
    }
    let _ = (oci::Digest::parse(&text), oci::Platform::parse(&text, &oci::Platform::new("linux", "amd64", "")));
    let _ = (oci::time::parse_rfc3339(&text), graph::git::GitUrl::read(&text), builder::csv::fields(&text));
    let _ = (store::lifecycle::Filter::parse(&[&text]), store::lifecycle::flags(&[&text]));
    let _ =
        (store::lifecycle::parse_duration(&text), daemon::Address::parse(&text), daemon::config::Space::parse(&text));
}

fn texts() -> Vec<Vec<u8>> {
    let digest = oci::Digest::of(b"a");
    let texts = [
        format!("registry.example:5000/a/b-c:1.0@{digest}"),
        "linux/arm/v7".to_owned(),
        "2024-01-31T12:00:00.123+02:00".to_owned(),
        "https://user@git.example/a/b.git?ref=x&subdir=d#main:sub".to_owned(),
        "git@git.example:a/b.git#v1".to_owned(),
        "type==regular,description~=\"a.*b\"".to_owned(),
        "until=1h30m".to_owned(),
        "tcp://[::1]:1234".to_owned(),
        "type=local,\"dest=a,b\"".to_owned(),
        "1.5GiB".to_owned(),
    ];
    texts.map(String::into_bytes).to_vec()
}

/// gRPC messages of clients, and what is made of them before anything is done.
pub fn requests(bytes: &[u8]) {
    if let Ok(request) = proto::control::SolveRequest::decode(bytes) {
        let _ = daemon::decoders::request(&request);
    }
    if let Ok(request) = proto::bridge::SolveRequest::decode(bytes) {
        let _ = request.definition.as_ref().map(daemon::decoders::graph);
    }
    let _ = proto::control::StatusResponse::decode(bytes);
    let _ = proto::bridge::ReturnRequest::decode(bytes);
    let _ = proto::content::ReadRequest::decode(bytes);
    let status = tonic::Status::with_details(tonic::Code::Unknown, "x", bytes.to_vec().into());
    let _ = (proto::refusal::whole(&status), proto::refusal::place(&status), proto::refusal::own(&status));
}

fn asked() -> Vec<Vec<u8>> {
    use proto::control::{CacheOptions, CacheOptionsEntry, Exporter, SolveRequest};
    let attrs = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let entry = CacheOptionsEntry { r#type: "registry".into(), attrs: attrs(&[("ref", "a/b")]) };
    let request = SolveRequest {
        r#ref: "r".into(),
        frontend: "dockerfile.v0".into(),
        frontend_attrs: attrs(&[
            ("cache-imports", "[{\"Type\":\"local\",\"Attrs\":{\"src\":\"x\"}}]"),
            ("platform", "linux/arm64"),
        ]),
        exporters: vec![Exporter { r#type: "oci".into(), attrs: attrs(&[("tar", "false"), ("name", "a,b")]) }],
        cache: Some(CacheOptions { imports: vec![entry.clone()], exports: vec![entry], ..Default::default() }),
        ..Default::default()
    };
    vec![request.encode_to_vec()]
}

/// For who runs one target over a file.
#[allow(dead_code, reason = "the fuzz crate's driver uses it, the tests do not")]
pub fn replay(target: &Target, path: &Path) -> std::io::Result<()> {
    (target.run)(&std::fs::read(path)?);
    Ok(())
}
