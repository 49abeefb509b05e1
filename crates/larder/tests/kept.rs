//! Kept builds as `docker buildx history` shows them: lists and filters, errors with their lines, attachments, bundles.

use serde_json::Value;

use crate::buildx::{Daemon, each};
use crate::kitchen::Kitchen;
use crate::leaves::eventually;

/// The history is younger than the oldest client.
fn each_new(test: impl Fn(&Kitchen, &Daemon<'_>)) {
    each(|kitchen, daemon| {
        if !daemon.is_old() {
            test(kitchen, daemon);
        }
    });
}

fn json(daemon: &Daemon<'_>, args: &[&str]) -> Value {
    let shown = daemon.buildx(&[&["history"], args].concat()).ok().stdout;
    serde_json::from_str(&shown).unwrap_or_else(|e| panic!("{e}: {shown}"))
}

/// References of a list, newest first, without the builder's name.
fn list(daemon: &Daemon<'_>, args: &[&str]) -> Vec<String> {
    let fixed = ["history", "ls", "--no-trunc", "--format", "{{.Ref}}"];
    let shown = daemon.buildx(&[&fixed[..], args].concat()).ok().stdout;
    shown.lines().filter_map(|line| line.rsplit('/').next()).map(str::to_owned).collect()
}

#[test]
fn lists_filters_and_removal() {
    each_new(|kitchen, daemon| {
        kitchen.write("Dockerfile", "FROM base\nRUN echo well\n");
        daemon.build(&[]).ok();
        kitchen.write("Dockerfile", "FROM base\nRUN exit 3\n");
        assert_ne!(daemon.build(&[]).code, 0);
        let all = list(daemon, &[]);
        let [failed, done] = all.as_slice() else { panic!("{all:?}") };
        for (filter, wanted) in [
            ("status=error", vec![failed.clone()]),
            ("status=completed", vec![done.clone()]),
            ("status!=completed", vec![failed.clone()]),
            (&format!("ref={done}"), vec![done.clone()]),
            ("duration<1h", all.clone()),
            ("duration>1h", Vec::new()),
            // A duration instead of a time is so long ago: what began since then is later.
            ("startedAt>1h", all.clone()),
            ("startedAt<1h", Vec::new()),
            ("startedAt>2020-01-01T00:00:00Z", all.clone()),
            ("completedAt>2h,status=error", vec![failed.clone()]),
        ] {
            let filters: Vec<&str> = filter.split(',').flat_map(|f| ["--filter", f]).collect();
            assert_eq!(list(daemon, &filters), wanted, "{filter}");
        }
        daemon.buildx(&["history", "rm", done]).ok();
        assert_eq!(list(daemon, &[]), std::slice::from_ref(failed));
        assert_ne!(daemon.buildx(&["history", "inspect", done]).code, 0);
    });
}

#[test]
fn an_error_is_kept_with_its_lines_and_its_log() {
    each_new(|kitchen, daemon| {
        kitchen.write("Dockerfile", "FROM base\nRUN echo out of luck >&2; exit 3\n");
        assert_ne!(daemon.build(&[]).code, 0);
        let shown = daemon.buildx(&["--debug", "history", "inspect"]).ok().stdout;
        let texts =
            [">>> RUN echo out of luck", "> out of luck", "exit code: 3", "Build Steps:\t5/5", "crates/daemon/src"];
        for text in texts {
            assert!(shown.contains(text), "{text}: {shown}");
        }
        let told = json(daemon, &["inspect", "--format", "json"]);
        assert_eq!(told["Status"], "failed");
        assert!(daemon.buildx(&["history", "logs"]).ok().stderr.contains("out of luck"));
    });
}

#[test]
fn attachments_and_what_went_in() {
    each_new(|kitchen, daemon| {
        let Some(registry) = testkit::registry::start() else { return };
        let daemon = daemon.with_defaults();
        kitchen.write("Dockerfile", "FROM base\nARG A\nRUN true\n");
        let name = format!("{}/app:1", registry.host);
        daemon.build(&["--push", "-t", &name, "--build-arg", "A=b"]).ok();
        let told = json(daemon, &["inspect", "--format", "json"]);
        assert_eq!(told["BuildArgs"], serde_json::json!([{ "Name": "A", "Value": "b" }]));
        assert!(told["Materials"][0]["URI"].as_str().unwrap().starts_with("pkg:docker/base@latest"), "{told}");
        let kinds: Vec<_> = told["Attachments"].as_array().unwrap().iter().map(|a| a["Type"].clone()).collect();
        for kind in ["https://slsa.dev/provenance/v1", "application/vnd.oci.image.index.v1+json"] {
            assert!(kinds.iter().any(|k| k == kind), "{kind}: {kinds:?}");
        }
        // What the history keeps is all that is known, also when the image was to have less.
        let built = json(daemon, &["inspect", "attachment", "--type", "provenance"]);
        assert!(built["buildDefinition"]["internalParameters"]["buildConfig"]["llbDefinition"].is_array());
        let index = json(daemon, &["inspect", "attachment", "--type", "index"]);
        assert_eq!(index["manifests"].as_array().map(Vec::len), Some(2));
    });
}

/// A bundle is an OCI layout whose manifest has the record, its log and its trace: the steps, and the client's spans.
#[test]
fn a_bundle_for_docker_desktop() {
    each_new(|kitchen, daemon| {
        kitchen.write("Dockerfile", "FROM base\nRUN echo traced\n");
        daemon.build(&[]).ok();
        let bundle = kitchen.path("x.dockerbuild");
        daemon.buildx(&["history", "export", "--finalize", "-o", bundle.to_str().unwrap()]).ok();
        let unpacked = kitchen.path("bundle");
        std::fs::create_dir(&unpacked).unwrap();
        let mut tar = std::process::Command::new("tar");
        assert!(tar.arg("-xzf").arg(&bundle).arg("-C").arg(&unpacked).status().unwrap().success());
        let blob = |digest: &Value| {
            let hex = digest.as_str().unwrap().trim_start_matches("sha256:").to_owned();
            std::fs::read(unpacked.join("blobs/sha256").join(hex)).unwrap()
        };
        let read = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).unwrap();
        let index = read(&std::fs::read(unpacked.join("index.json")).unwrap());
        let manifest = read(&blob(&index["manifests"][0]["digest"]));
        let layers = manifest["layers"].as_array().unwrap();
        let of = |kind: &str| blob(&layers.iter().find(|l| l["mediaType"] == kind).expect(kind)["digest"]);
        let log = of("application/vnd.buildkit.status.v0");
        let mut rest = log.as_slice();
        while let Some((length, after)) = rest.split_at_checked(4) {
            // Frames end where the log ends.
            rest = &after[u32::from_le_bytes(length.try_into().unwrap()) as usize..];
        }
        assert!(rest.is_empty() && log.windows(6).any(|part| part == b"traced"));
        let trace = of("application/vnd.buildkit.otlp.json.v0");
        let spans: Vec<Value> = serde_json::Deserializer::from_slice(&trace).into_iter().map(Result::unwrap).collect();
        let step = spans.iter().find(|s| s["Name"].as_str().unwrap().contains("RUN echo traced")).unwrap();
        assert!(spans.iter().all(|s| s["SpanContext"]["TraceID"] == step["SpanContext"]["TraceID"]));
        let solve = spans.iter().find(|s| s["SpanContext"]["SpanID"] == step["Parent"]["SpanID"]).unwrap();
        let client = spans.iter().find(|s| s["SpanContext"]["SpanID"] == solve["Parent"]["SpanID"]).unwrap();
        assert!(client["Resource"].to_string().contains("buildx"), "{client}");
        of("application/vnd.in-toto+json");
    });
}

/// Builds of `larder build` are shown by a daemon too, with everything that a client may read.
#[test]
fn a_build_without_a_daemon_is_shown_like_any_other() {
    let Some(kitchen) = Kitchen::new() else { return };
    let clients = crate::buildx::clients();
    let Some(client) = clients.iter().find(|c| c.contains("sid")) else { return };
    kitchen.write("Dockerfile", "FROM base\nRUN echo by hand\n");
    kitchen.larder(&["build", kitchen.context().to_str().unwrap()]).ok();
    let daemon = Daemon::start(&kitchen, client);
    assert!(daemon.buildx(&["history", "logs"]).ok().stderr.contains("by hand"));
    let told = json(&daemon, &["inspect", "--format", "json"]);
    assert_eq!(told["Status"], "completed");
}

#[test]
fn a_cancelled_build_is_kept_as_cancelled() {
    each_new(|kitchen, daemon| {
        kitchen.write("Dockerfile", "FROM base\nRUN echo ready && sleep 1000\n");
        let mut child = daemon.build_until_ready();
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
        assert!(!child.wait().unwrap().success());
        eventually("the build is not kept", || list(daemon, &["--filter", "status=canceled"]).len() == 1);
        assert_eq!(json(daemon, &["inspect", "--format", "json"])["Status"], "canceled");
    });
}
