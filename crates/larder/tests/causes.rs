//! Each cause, as a user brings it about.

use crate::kitchen::Kitchen;

/// Builds twice with a change between; gives the cause of the step like `step`.
fn changed(kitchen: &Kitchen, before: &str, after: &str, args: &[&str], step: &str) -> String {
    kitchen.write("Dockerfile", before);
    kitchen.build(&[]).ok();
    kitchen.write("Dockerfile", after);
    kitchen.build(args).ok();
    kitchen.cause(step)
}

#[test]
fn never_built_and_files() {
    let Some(kitchen) = Kitchen::new() else { return };
    kitchen.write("Dockerfile", "FROM base\nCOPY src /src\nRUN ls /src\n");
    for name in ["src/a", "src/b", "src/main.rs"] {
        kitchen.write(name, "1");
    }
    let first = kitchen.build(&[]).ok();
    assert_eq!(kitchen.cause("COPY"), "NeverBuilt");
    assert_eq!(first.missed(), 2, "{}", first.stderr);
    kitchen.write("src/main.rs", "2");
    let second = kitchen.build(&[]).ok();
    assert!(second.stderr.contains("because src/main.rs changed (content), 1 of 4 files"), "{}", second.stderr);
    assert_eq!(kitchen.cause("RUN ls"), "ParentChanged");
    std::fs::remove_file(kitchen.context().join("src/b")).unwrap();
    let third = kitchen.build(&[]).ok();
    assert!(third.stderr.contains("src/b was removed"), "{}", third.stderr);
}

#[test]
fn arguments_environment_instructions() {
    let Some(kitchen) = Kitchen::new() else { return };
    let arg = "FROM base\nARG VERSION=1.2\nRUN echo $VERSION\n";
    assert_eq!(changed(&kitchen, arg, arg, &["--build-arg", "VERSION=1.3"], "RUN"), "ArgChanged");
    let shown = kitchen.larder(&["explain"]).ok().stdout;
    assert!(shown.contains("because ARG VERSION: 1.2 → 1.3"), "{shown}");
    let (before, after) = ("FROM base\nENV MODE=a\nRUN env\n", "FROM base\nENV MODE=b\nRUN env\n");
    assert_eq!(changed(&kitchen, before, after, &[], "RUN"), "EnvChanged");
    let (before, after) = ("FROM base\nRUN echo one\n", "FROM base\nRUN echo two\n");
    assert_eq!(changed(&kitchen, before, after, &[], "RUN"), "InstructionChanged");
}

#[test]
fn a_base_that_moved() {
    let Some(kitchen) = Kitchen::new() else { return };
    kitchen.write("Dockerfile", "FROM base\nRUN echo new > /new\n");
    kitchen.build(&["-t", "moving"]).ok();
    kitchen.write("Dockerfile", "FROM moving\nRUN echo on top\n");
    kitchen.build(&[]).ok();
    kitchen.write("Dockerfile", "FROM base\nRUN echo newer > /new\n");
    kitchen.build(&["-t", "moving"]).ok();
    kitchen.write("Dockerfile", "FROM moving\nRUN echo on top\n");
    kitchen.build(&[]).ok();
    assert_eq!(kitchen.cause("on top"), "BaseImageMoved");
    let shown = kitchen.larder(&["explain"]).ok().stdout;
    assert!(shown.contains("because moving:latest moved sha256:"), "{shown}");
}

#[test]
fn asked_for() {
    let Some(kitchen) = Kitchen::new() else { return };
    let text = "FROM base AS deps\nRUN echo deps\nFROM deps\nRUN echo app\n";
    assert_eq!(changed(&kitchen, text, text, &["--no-cache-filter", "deps"], "echo deps"), "Requested");
    kitchen.build(&["--no-cache"]).ok();
    assert_eq!(kitchen.cause("echo app"), "Requested");
}

#[test]
fn pruned() {
    let Some(kitchen) = Kitchen::new() else { return };
    kitchen.write("Dockerfile", "FROM base\nRUN echo one > /one\n");
    kitchen.build(&[]).ok();
    kitchen.larder(&["prune", "--force", "--all"]).ok();
    assert!(kitchen.larder(&["du"]).ok().stdout.lines().count() < 5);
    let again = kitchen.build(&[]);
    if again.code == 0 {
        assert_eq!(kitchen.cause("echo one"), "Pruned");
    } else {
        // The base's own layer was not named by an image: it can be imported again.
        panic!("{}", again.stderr);
    }
}

#[test]
fn fail_on_miss_runs_nothing_and_says_why() {
    let Some(kitchen) = Kitchen::new() else { return };
    kitchen.write("Dockerfile", "FROM base AS deps\nRUN echo deps\nFROM deps AS app\nRUN echo app\n");
    let cold = kitchen.build(&["--fail-on-miss"]);
    assert_eq!(cold.code, 3, "{}", cold.stderr);
    kitchen.build(&[]).ok();
    assert_eq!(kitchen.build(&["--fail-on-miss"]).code, 0);
    kitchen.write("Dockerfile", "FROM base AS deps\nRUN echo deps\nFROM deps AS app\nRUN echo changed\n");
    assert_eq!(kitchen.build(&["--fail-on-miss=deps"]).code, 0, "only the named stage counts");
    kitchen.write("Dockerfile", "FROM base AS deps\nRUN echo more\nFROM deps AS app\nRUN echo changed\n");
    let missed = kitchen.build(&["--fail-on-miss=deps"]);
    assert_eq!(missed.code, 3);
    assert!(missed.stderr.contains("because the instruction: RUN echo deps → RUN echo more"), "{}", missed.stderr);
}

/// `--no-cache` is for steps that may have been spoilt by what they left for each other, too.
#[test]
fn without_the_cache_volumes_begin_anew() {
    let Some(kitchen) = Kitchen::new() else { return };
    let write = |step: &str| {
        let text = format!("FROM base\nRUN --mount=type=cache,target=/c touch /c/{step} && ls /c | wc -l > /count\n");
        kitchen.write("Dockerfile", &text);
    };
    let count = |args: &[&str]| std::fs::read_to_string(kitchen.files(args).join("count")).unwrap().trim().to_owned();
    write("one");
    assert_eq!(count(&[]), "1");
    write("two");
    assert_eq!(count(&[]), "2");
    write("three");
    assert_eq!(count(&["--no-cache"]), "1");
    write("four");
    assert_eq!(count(&[]), "2");
}

/// What a person changed is named as it was written; what changed behind the same words, by its own name.
#[test]
fn file_instructions_in_words() {
    let Some(kitchen) = Kitchen::new() else { return };
    for name in ["src/a", "lib/a"] {
        kitchen.write(name, "1");
    }
    let causes = |before: &str, after: &str| {
        kitchen.write("Dockerfile", &format!("FROM base\n{before}\nRUN true\n"));
        kitchen.build(&["--no-cache"]).ok();
        kitchen.write("Dockerfile", &format!("FROM base\n{after}\nRUN true\n"));
        let told = kitchen.build(&[]).ok().stderr;
        let because = told.lines().find_map(|line| line.split_once(" because ").map(|(_, why)| why.to_owned()));
        because.unwrap_or_else(|| panic!("{told}"))
    };
    let said = causes("COPY src /w/", "COPY --chown=1:2 src /w/");
    assert_eq!(said, "the instruction: COPY src /w/ → COPY --chown=1:2 src /w/");
    assert_eq!(causes("COPY src /w/", "COPY lib /w/"), "the instruction: COPY src /w/ → COPY lib /w/");
    assert_eq!(causes("COPY <<E /x\none\nE", "COPY <<E /x\ntwo\nE"), "the instruction: content one␤ → content two␤");
    assert_eq!(causes("WORKDIR /a\nCOPY src x", "WORKDIR /b\nCOPY src x"), "the instruction: WORKDIR /a → WORKDIR /b");
    let explained = kitchen.larder(&["explain"]).ok().stdout;
    assert!(!explained.contains("Some("), "{explained}");
}

/// A step that moved, or whose stage was renamed, is the step that it was; what came in between is new.
#[test]
fn a_step_keeps_its_past_where_it_goes() {
    let Some(kitchen) = Kitchen::new() else { return };
    kitchen.write("src/a", "1");
    let build = |text: &str| {
        kitchen.write("Dockerfile", &format!("{text}FROM base\nCOPY --from=0 /src /\n"));
        kitchen.build(&[]).ok().stderr
    };
    build("FROM base AS one\nCOPY src /src\nRUN ls /src\n");
    let told = build("FROM base AS one\nRUN echo between\nCOPY src /src\nRUN ls /src\n");
    assert_eq!(kitchen.cause("echo between"), "NeverBuilt");
    assert_eq!(kitchen.cause("COPY"), "ParentChanged");
    assert!(told.contains("because [one 2/4] RUN echo between was never built here"), "{told}");
    build("FROM base AS two\nRUN echo between\nCOPY src /src\nRUN ls /src\n");
    kitchen.write("src/a", "2");
    kitchen.build(&[]).ok();
    assert_eq!(kitchen.cause("COPY"), "FilesChanged");
    let told = kitchen.build(&["--no-cache-filter", "two"]).ok().stderr;
    assert!(told.contains("because --no-cache-filter asks for it"), "{told}");
}
