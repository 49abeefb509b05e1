//! What goes wrong, and how it is said: exit codes and texts are part of what users rely on.

use crate::kitchen::Kitchen;

#[test]
fn a_step_that_fails() {
    let Some(kitchen) = Kitchen::new() else { return };
    kitchen.write("Dockerfile", "FROM base\nRUN echo before; exit 7\n");
    let ran = kitchen.build(&[]);
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("before"), "{}", ran.stderr);
    insta::assert_snapshot!(ran.stderr.split("error:").last().unwrap_or_default());
}

/// A stage that is copied from runs beside the step that it is copied onto. What the failure came before is neither a hit
/// nor a miss.
#[test]
fn steps_that_were_not_reached() {
    let Some(kitchen) = Kitchen::new() else { return };
    let slow = "FROM base AS slow\nRUN sleep 30\nRUN echo later\n";
    kitchen.write("Dockerfile", &format!("{slow}FROM base\nRUN false\nCOPY --from=slow /bin /x\n"));
    let ran = kitchen.build(&[]);
    assert_eq!(ran.code, 1);
    assert!(!ran.stderr.contains("CACHED") && !ran.stderr.contains("echo later"), "{}", ran.stderr);
    let told = kitchen.larder(&["explain"]).ok().stdout;
    assert!(!told.contains("cached") && !told.contains("echo later"), "{told}");
}

#[test]
fn a_file_that_is_missing() {
    let Some(kitchen) = Kitchen::new() else { return };
    kitchen.write("Dockerfile", "FROM base\nCOPY nothing /\n");
    let ran = kitchen.build(&[]);
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("/nothing"), "{}", ran.stderr);
}

#[test]
fn a_dockerfile_that_is_wrong() {
    let Some(kitchen) = Kitchen::new() else { return };
    kitchen.write("Dockerfile", "FROM base\nRUNN echo hi\n");
    let ran = kitchen.build(&[]);
    assert_eq!(ran.code, 2);
    insta::assert_snapshot!(ran.stderr.split("error:").last().unwrap_or_default());
}

#[test]
fn flags_that_are_wrong() {
    let Some(kitchen) = Kitchen::new() else { return };
    kitchen.write("Dockerfile", "FROM base\n");
    for (args, expected) in [
        (vec!["--secret", "colour=red"], "unknown key `colour`"),
        (vec!["--secret", "id=x,src=/not/there"], "--secret id=x,src=/not/there: /not/there: No such file"),
        (vec!["-o", "type=tar"], "dest=FILE is missing"),
        (vec!["-o", "type=soup"], "`soup` is not an output type"),
        (vec!["--allow", "network.hots"], "unknown entitlement network.hots"),
        (vec!["--target", "nope"], "target stage \"nope\" could not be found"),
        (vec!["--target", "nope"], "help: there are 0"),
        (vec!["--fail-on-miss=nope"], "there is no such stage; there are 0"),
        (vec!["-t", "Upper"], "-t Upper: `Upper` is not an image reference"),
        (vec!["--push"], "what is pushed needs a name"),
        (vec!["--ulimit", "x"], "--ulimit x: expected NAME=SOFT[:HARD]"),
        (vec!["--network", "bogus"], "--network bogus: expected default, none or host"),
        (vec!["--call", "bogus"], "knows no question `bogus`"),
        (vec!["-o", "type=image,compression=brotli"], "is no attribute of the output image"),
        (vec!["--platform", "no/such/thing/here"], "is not a platform"),
        (vec!["--cache-to", "type=azblob"], "`azblob` is not a cache that larder can write"),
        (vec!["--cache-to", "type=registry"], "needs ref=…"),
        (vec!["--cache-to", "type=inline,mode=most"], "expected min or max"),
    ] {
        let ran = kitchen.build(&args);
        assert!(ran.stderr.contains(expected), "{args:?}: {}", ran.stderr);
        assert_eq!(ran.code, 2, "{args:?}: {}", ran.stderr);
    }
}

#[test]
fn a_source_that_fails_shows_who_reads_it() {
    let Some(kitchen) = Kitchen::new() else { return };
    kitchen.write("Dockerfile", "FROM base\nADD http://127.0.0.1:1/nothing /\n");
    let ran = kitchen.build(&[]);
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("2 | ADD http://127.0.0.1:1/nothing /\n  | ^^^"), "{}", ran.stderr);
}

/// What is right and goes wrong is no wrong command line.
#[test]
fn failures_that_no_other_flag_mends() {
    let Some(kitchen) = Kitchen::new() else { return };
    kitchen.write("Dockerfile", "FROM base\n");
    for args in [vec!["-t", "127.0.0.1:1/app", "--push"], vec!["--iidfile", "/not/there/id"]] {
        let ran = kitchen.build(&args);
        assert_eq!(ran.code, 1, "{args:?}: {}", ran.stderr);
    }
    kitchen.write("Dockerfile", "FROM 127.0.0.1:1/nothing\n");
    assert_eq!(kitchen.build(&[]).code, 1);
}

#[test]
fn a_secret_reaches_the_step_and_nothing_else() {
    let Some(kitchen) = Kitchen::new() else { return };
    let secret = "correct-horse-battery-staple";
    std::fs::write(kitchen.path("secret"), secret).unwrap();
    let dockerfile = "FROM base\nRUN --mount=type=secret,id=key,required=true wc -c < /run/secrets/key > /length\n\
        RUN --mount=type=secret,id=key,env=KEY sh -c 'test -n \"$KEY\"'\n";
    kitchen.write("Dockerfile", dockerfile);
    let missing = kitchen.build(&[]);
    assert!(missing.stderr.contains("--secret id=key"), "{}", missing.stderr);
    let flag = format!("id=key,src={}", kitchen.path("secret").display());
    kitchen.build(&["--secret", &flag, "-t", "app"]).ok();
    let out = kitchen.files(&["--secret", &flag]);
    assert_eq!(std::fs::read_to_string(out.join("length")).unwrap().trim(), secret.len().to_string());
    let found =
        std::process::Command::new("grep").args(["-rla", secret]).arg(kitchen.root()).arg(out).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&found.stdout), "", "the secret was kept somewhere");
}

#[test]
fn two_builds_at_once_both_finish() {
    let Some(kitchen) = Kitchen::new() else { return };
    kitchen.write("Dockerfile", "FROM base\nRUN sleep 1; echo done > /done\n");
    let context = kitchen.context();
    let mut first =
        kitchen.command(&kitchen.root(), &["build", "--progress", "quiet", context.to_str().unwrap()]).spawn().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(300));
    let second = kitchen.build(&[]).ok();
    assert!(second.stderr.contains("waiting for"), "{}", second.stderr);
    assert!(first.wait().unwrap().success());
}

#[test]
fn a_reader_that_has_seen_enough() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_larder"));
    let ran = command.args(["completions", "bash"]).stdout(writer).stderr(std::process::Stdio::piped());
    let ran = ran.spawn().unwrap().wait_with_output().unwrap();
    assert_eq!(ran.status.code(), Some(141));
    assert_eq!(String::from_utf8_lossy(&ran.stderr), "");
}
