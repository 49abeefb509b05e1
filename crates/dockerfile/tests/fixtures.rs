//! Dockerfiles in the manner of real ones: the tree, what is found wrong, and the graph of each, as snapshots.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use dockerfile::lower::{Fact, Need, Options, Outcome};
use dockerfile::{Diagnostic, LineIndex};
use oci::{Digest, ImageConfig, Platform};

pub fn folder() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures")
}

#[test]
fn every_fixture() {
    let mut files: Vec<_> = std::fs::read_dir(folder()).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 60, "{} fixtures", files.len());
    for path in files {
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        insta::assert_snapshot!(name, report(&std::fs::read(&path).unwrap()));
    }
}

fn report(bytes: &[u8]) -> String {
    let (file, _) = dockerfile::parse(bytes);
    let index = LineIndex::new(&file.text);
    let mut out = String::from("tree\n");
    for i in &file.instructions {
        let kind = format!("{:?}", i.kind);
        // Places make a tree unreadable; the lines of the instruction say enough here.
        let kind = without_spans(&kind);
        writeln!(out, "  {}-{} {kind}", i.lines.0, i.lines.1).unwrap();
        assert!(i.span.start <= i.span.end && i.span.end as usize <= file.text.len());
    }
    let found = dockerfile::check(bytes, &[]);
    list(&mut out, "checks", &found, &index);
    match lower(&file) {
        Err(errors) => list(&mut out, "not lowered", &errors, &index),
        Ok(lowered) => {
            out.push_str("graph\n");
            for vertex in lowered.graph.vertices() {
                let inputs: Vec<String> = vertex.inputs.iter().map(|e| e.vertex.short()).collect();
                writeln!(out, "  {} {} <- [{}]", vertex.digest.short(), vertex.name(), inputs.join(" ")).unwrap();
            }
            let config = serde_json::to_string(&lowered.config.config).unwrap();
            writeln!(out, "config {config}").unwrap();
            for line in lowered.config.history.unwrap_or_default() {
                let layer = if line.empty_layer { ' ' } else { '+' };
                writeln!(out, "  {layer} {}", line.created_by).unwrap();
            }
        }
    }
    out
}

fn list(out: &mut String, title: &str, found: &[Diagnostic], index: &LineIndex) {
    if found.is_empty() {
        return;
    }
    writeln!(out, "{title}").unwrap();
    for d in found {
        let rule = d.rule.as_deref().unwrap_or("error");
        let help = d.help.as_ref().map(|h| format!(" ({h})")).unwrap_or_default();
        writeln!(out, "  {}:{} {rule}: {}{help}", index.line(d.span.start), index.column(d.span.start), d.message)
            .unwrap();
    }
}

/// `Spanned { value: "x", span: … }` as `"x"`.
fn without_spans(text: &str) -> String {
    let mut text = text.to_owned();
    while let Some(at) = text.find(", span: Span {") {
        let end = text[at..].find('}').map_or(text.len(), |e| at + e + 1);
        text.replace_range(at..end, "");
    }
    text.replace("Spanned { value: ", "{ ")
}

/// Lowers with facts that are made up but always the same.
pub fn lower(file: &dockerfile::ast::File) -> Result<dockerfile::lower::Lowered, Vec<Diagnostic>> {
    lower_with(file, &BTreeMap::new())
}

/// The same with build arguments. An image's digest is that of its name and platform, and it has one layer.
pub fn lower_with(
    file: &dockerfile::ast::File,
    build_args: &BTreeMap<String, String>,
) -> Result<dockerfile::lower::Lowered, Vec<Diagnostic>> {
    let platform = Platform::new("linux", "amd64", "");
    let mut options = Options::new(platform.clone(), platform);
    options.session = "session".to_owned();
    options.build_args.clone_from(build_args);
    let mut facts = BTreeMap::new();
    loop {
        match dockerfile::lower(file, &options, &facts)? {
            Outcome::Done(lowered) => return Ok(*lowered),
            Outcome::Needs { needs, .. } => {
                for need in needs.into_keys() {
                    let Need::Image { reference, platform } = &need else { panic!("{need:?}") };
                    let digest = Digest::of(format!("{reference} {platform}").as_bytes());
                    let mut config =
                        ImageConfig { os: "linux".to_owned(), architecture: "amd64".to_owned(), ..Default::default() };
                    config.config.env = vec!["PATH=/bin".to_owned()];
                    config.config.cmd = Some(vec!["sh".to_owned()]);
                    config.rootfs.diff_ids.push(Digest::of(b"layer"));
                    facts.insert(need, Fact::Image { digest, config: Box::new(config), moved: None });
                }
            }
        }
    }
}

#[test]
fn what_comes_from_a_secret_is_masked_in_the_steps_name() {
    let text = "FROM base\nENV KEY=public OTHER=seen\nRUN --mount=type=secret,id=k,env=KEY echo $KEY $OTHER $NONE\n";
    let (file, _) = dockerfile::parse(text.as_bytes());
    let names: Vec<String> = lower(&file).unwrap().graph.vertices().map(|vertex| vertex.name()).collect();
    let expected = "[stage-0 2/2] RUN --mount=type=secret,id=k,env=KEY echo **** seen $NONE";
    assert!(names.iter().any(|name| name == expected), "{names:?}");
}

/// Of a named directory only what is read is asked for; a process, or the target, may read all of it.
#[test]
fn named_directories_are_asked_for_what_is_read() {
    let platform = Platform::new("linux", "amd64", "");
    let mut options = Options::new(platform.clone(), platform);
    options.contexts.insert("more".to_owned(), dockerfile::lower::NamedContext::Local("more".to_owned()));
    let need = Need::Ignore { context: "more".to_owned() };
    let facts = [(need, Fact::Patterns(Vec::new()))].into();
    let follow = |text: &str| {
        let (file, _) = dockerfile::parse(text.as_bytes());
        let Outcome::Done(lowered) = dockerfile::lower(&file, &options, &facts).unwrap() else { panic!("{text}") };
        let sources = lowered.graph.vertices().filter_map(|vertex| match vertex.kind() {
            Some(graph::Kind::Source(op)) => Some(op.attrs.get("local.followpaths").cloned().unwrap_or_default()),
            _ => None,
        });
        sources.collect::<String>()
    };
    assert_eq!(follow("FROM scratch\nCOPY --from=more b /\nCOPY --from=more a/c /\n"), r#"["a/c","b"]"#);
    assert_eq!(follow("FROM scratch AS more\nFROM scratch\nCOPY --from=more b /\n"), r#"["b"]"#);
    assert_eq!(follow("FROM scratch\nRUN --mount=from=more,source=d,target=/d true\n"), r#"["d"]"#);
    assert_eq!(follow("FROM scratch\nRUN --mount=from=more,target=/d true\n"), "");
    assert_eq!(follow("FROM more\nENV a=b\n"), "");
    assert_eq!(follow("FROM more AS one\nRUN true\nFROM scratch\nCOPY --from=one b /\n"), "");
    assert_eq!(follow("FROM scratch\nRUN --mount=source=sub,target=/d true\n"), r#"["sub"]"#);
}

#[test]
fn an_image_without_layers_is_nothing_to_begin_with() {
    let platform = Platform::new("linux", "amd64", "");
    let (file, _) = dockerfile::parse(b"FROM empty\nRUN true\n");
    let need = Need::Image { reference: "docker.io/library/empty:latest".to_owned(), platform: platform.to_string() };
    let fact = Fact::Image { digest: Digest::of(b"empty"), config: Box::default(), moved: None };
    let options = Options::new(platform.clone(), platform);
    let outcome = dockerfile::lower(&file, &options, &[(need, fact)].into()).unwrap();
    let Outcome::Done(lowered) = outcome else { panic!("{outcome:?}") };
    assert_eq!(lowered.graph.len(), 1);
}

proptest::proptest! {
    /// Whatever the text is, reading it ends, and every place lies inside it.
    #[test]
    fn nothing_panics(text in "(FROM|RUN|COPY|ENV|ARG|#|<<EOF|EOF|\\\\|\n| |\"|'|\\$\\{|\\}|[a-z=:-]){0,60}") {
        let (file, errors) = dockerfile::parse(text.as_bytes());
        for instruction in &file.instructions {
            proptest::prop_assert!(instruction.span.end as usize <= file.text.len());
        }
        for error in &errors {
            proptest::prop_assert!(error.span.end as usize <= file.text.len().max(3));
        }
        let _ = lower(&file);
        let _ = dockerfile::check(text.as_bytes(), &[]);
    }
}
