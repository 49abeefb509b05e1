//! SOURCE_DATE_EPOCH: who says it, what it may name, and what becomes of it in graph and history.

use std::collections::BTreeMap;

use dockerfile::lower::{Fact, Input, Lowered, NamedContext, Need, Options, Outcome};
use graph::wire::{self, file_action::Action, op};
use oci::Platform;

fn options() -> Options {
    let platform = Platform::new("linux", "amd64", "");
    Options::new(platform.clone(), platform)
}

/// Lowers; every source that is asked for is of `time`.
fn lower(text: &str, options: &Options, time: Option<i64>) -> Result<(Lowered, Vec<String>), String> {
    let (file, errors) = dockerfile::parse(text.as_bytes());
    assert!(errors.is_empty(), "{errors:?}");
    let (mut facts, mut asked) = (BTreeMap::new(), Vec::new());
    loop {
        match dockerfile::lower(&file, options, &facts).map_err(|errors| errors[0].message.clone())? {
            Outcome::Done(lowered) => return Ok((*lowered, asked)),
            Outcome::Needs { needs, .. } => {
                for need in needs.into_keys() {
                    let Need::Time { identifier, .. } = &need else { panic!("{need:?}") };
                    asked.push(identifier.clone());
                    facts.insert(need, Fact::Time(time));
                }
            }
        }
    }
}

fn given(value: &str) -> Options {
    let mut options = options();
    options.build_args.insert("SOURCE_DATE_EPOCH".to_owned(), value.to_owned());
    options
}

fn env_of_run(lowered: &Lowered) -> Vec<String> {
    let envs = lowered.graph.vertices().filter_map(|vertex| match &vertex.op.op {
        Some(op::Op::Exec(exec)) => Some(exec.meta.clone().unwrap_or_default().env),
        _ => None,
    });
    envs.flatten().filter(|env| env.starts_with("SOURCE")).collect()
}

#[test]
fn seconds_are_the_time_of_history_and_folders() {
    let text = "ARG SOURCE_DATE_EPOCH=7\nFROM scratch\nWORKDIR /w\nENV a=b\nARG SOURCE_DATE_EPOCH\nRUN true\n";
    let (lowered, asked) = lower(text, &options(), None).unwrap();
    assert!(asked.is_empty());
    assert_eq!(lowered.epoch, Some(7));
    assert_eq!(env_of_run(&lowered), ["SOURCE_DATE_EPOCH=7"]);
    let times: Vec<_> = lowered.config.history.iter().flatten().map(|line| line.created.clone()).collect();
    assert_eq!(times, vec![Some("1970-01-01T00:00:07Z".to_owned()); 4]);
    let made = lowered.graph.vertices().find_map(|vertex| match &vertex.op.op {
        Some(op::Op::File(file)) => match &file.actions[0].action {
            Some(Action::MkDir(dir)) => Some(dir.timestamp),
            _ => None,
        },
        _ => None,
    });
    assert_eq!(made, Some(7_000_000_000));
}

#[test]
fn the_client_goes_before_the_file_and_may_say_that_there_is_none() {
    let text = "ARG SOURCE_DATE_EPOCH=7\nFROM scratch\nWORKDIR /w\nARG SOURCE_DATE_EPOCH\nRUN true\n";
    let (lowered, _) = lower(text, &given("8"), None).unwrap();
    assert_eq!((lowered.epoch, env_of_run(&lowered)), (Some(8), vec!["SOURCE_DATE_EPOCH=8".to_owned()]));
    let (lowered, _) = lower(text, &given(""), None).unwrap();
    assert_eq!((lowered.epoch, env_of_run(&lowered)), (None, vec![]));
    assert!(lowered.config.history.iter().flatten().all(|line| line.created.is_none()));
}

#[test]
fn a_name_is_a_context_or_a_stage_that_adds_one_source() {
    let text = "ARG SOURCE_DATE_EPOCH=src\nFROM scratch AS src\nARG v=1\nADD http://h.example/$v.tar /\nFROM scratch\n\
                ARG SOURCE_DATE_EPOCH\nRUN true\n";
    let (lowered, asked) = lower(text, &options(), Some(9)).unwrap();
    assert_eq!(asked, ["http://h.example/1.tar"]);
    assert_eq!((lowered.epoch, env_of_run(&lowered)), (Some(9), vec!["SOURCE_DATE_EPOCH=9".to_owned()]));
    // The context goes before the stage of that name; one without a time leaves none.
    let mut options = options();
    let url = "https://h.example/a.git".to_owned();
    options.contexts.insert("src".to_owned(), NamedContext::Remote(url));
    let (lowered, asked) = lower(text, &options, None).unwrap();
    assert_eq!(asked, ["git://h.example/a.git"]);
    assert_eq!((lowered.epoch, env_of_run(&lowered)), (None, vec![]));
    options.contexts.insert("src".to_owned(), NamedContext::Local("src".to_owned()));
    let (file, _) = dockerfile::parse(b"ARG SOURCE_DATE_EPOCH=src\nFROM scratch\n");
    let outcome = dockerfile::lower(&file, &options, &BTreeMap::new()).unwrap();
    assert!(matches!(outcome, Outcome::Done(lowered) if lowered.epoch.is_none()));
}

#[test]
fn the_context_is_asked_where_it_is_one_source() {
    let text = "FROM scratch\nWORKDIR /w\n";
    let (lowered, asked) = lower(text, &given("context"), Some(3)).unwrap();
    assert_eq!((lowered.epoch, asked.len()), (None, 0), "a directory has no time of its own");
    let mut options = given("context");
    let op = wire::Op {
        op: Some(op::Op::Source(wire::SourceOp {
            identifier: "git://h.example/a.git".to_owned(),
            ..Default::default()
        })),
        ..Default::default()
    };
    let mut builder = graph::GraphBuilder::default();
    let vertex = builder.add(op, wire::OpMetadata::default()).unwrap();
    let graph = std::sync::Arc::new(builder.finish(Some(graph::Edge { vertex, output: 0 }), None));
    options.context = Some(graph.clone());
    let (lowered, asked) = lower(text, &options, Some(3)).unwrap();
    assert_eq!((lowered.epoch, asked), (Some(3), vec!["git://h.example/a.git".to_owned()]));
    let mut options = given("more");
    options.contexts.insert("more".to_owned(), NamedContext::Input("other".to_owned()));
    options.inputs.insert("other".to_owned(), Input { graph, config: None });
    assert_eq!(lower(text, &options, Some(4)).unwrap().0.epoch, Some(4));
}

#[test]
fn what_is_no_time_and_no_source_is_refused() {
    let error = |text: &str| lower(text, &options(), None).unwrap_err();
    assert_eq!(error("ARG SOURCE_DATE_EPOCH=soon\nFROM scratch\n"), "invalid SOURCE_DATE_EPOCH: soon");
    let stage = |body: &str| error(&format!("ARG SOURCE_DATE_EPOCH=s\n{body}\nFROM scratch\n"));
    let unsupported = "SOURCE_DATE_EPOCH stage does not meet source-only requirements: unsupported copy instruction";
    assert_eq!(stage("FROM scratch AS s\nCOPY a /a"), unsupported);
    assert_eq!(stage("FROM busybox AS s"), "SOURCE_DATE_EPOCH stage must use FROM scratch");
    let one = "SOURCE_DATE_EPOCH stage must contain exactly one remote ADD";
    assert_eq!(stage("FROM scratch AS s"), one);
    assert_eq!(stage("FROM scratch AS s\nADD http://h.example/a /\nADD http://h.example/b /"), one);
    assert_eq!(
        stage("FROM scratch AS s\nADD a /"),
        "SOURCE_DATE_EPOCH stage source must be a single HTTP(S) or Git ADD"
    );
}
