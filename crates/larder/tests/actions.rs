//! What docker/setup-buildx-action, build-push-action and bake-action call, one after the other, as they call it.

use crate::buildx::{Daemon, each};
use crate::kitchen::Kitchen;

/// JSON of a file.
fn json(path: &std::path::Path) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn text(path: &std::path::Path) -> &str {
    path.to_str().unwrap()
}

/// The builder as setup-buildx-action makes it.
fn set_up(kitchen: &Kitchen, daemon: &Daemon<'_>) {
    let socket = format!("unix://{}", kitchen.path("larder.sock").display());
    daemon.buildx(&["version"]).ok();
    daemon.buildx(&["create", "--name", "builder-1", "--driver", "remote", "--use", &socket]).ok();
    let shown = daemon.buildx(&["inspect", "--bootstrap", "--builder", "builder-1"]).ok().stdout;
    // It reads these lines.
    for line in ["Driver:", "Endpoint:", "Status:", "Platforms:"] {
        assert!(shown.lines().any(|l| l.starts_with(line)), "{line} {shown}");
    }
    assert!(shown.contains("running") && (daemon.is_old() || shown.contains("BuildKit version:")), "{shown}");
    assert!(shown.contains("v0."), "{shown}");
}

#[test]
fn build_and_push() {
    each(|kitchen, daemon| {
        let Some(registry) = testkit::registry::start() else { return };
        set_up(kitchen, daemon);
        kitchen.write("Dockerfile", "FROM base\nARG V\nRUN echo $V > /v\n");
        let (iid, metadata) = (kitchen.path("iid"), kitchen.path("metadata.json"));
        let name = format!("{}/app:main", registry.host);
        let provenance = "type=provenance,mode=max,builder-id=https://ci.example/runs/1";
        let cache = format!("type=registry,ref={}/app:cache", registry.host);
        let args =
            ["build", "--builder", "builder-1", "--build-arg", "V=1", "--label", "run=1", "--iidfile", text(&iid)];
        let more = ["--attest", provenance, "--tag", &name, "--metadata-file", text(&metadata), "--push", "."];
        let caches = ["--cache-from", &cache, "--cache-to", &format!("{cache},mode=max")];
        daemon.buildx(&[&args[..], &caches, &more].concat()).ok();
        let told = json(&metadata);
        // Its outputs: the image's id, its digest, and the reference by which the summary is made.
        let digest = told["containerimage.digest"].as_str().unwrap();
        assert_eq!(std::fs::read_to_string(iid).unwrap().trim(), digest);
        let reference = told["buildx.build.ref"].as_str().unwrap().rsplit('/').next().unwrap().to_owned();
        if !daemon.is_old() {
            let made = &told["buildx.build.provenance"];
            assert!(made.to_string().contains("https://ci.example/runs/1"), "{made}");
            summary(kitchen, daemon, &reference, &name);
        }
        daemon.buildx(&["du", "--builder", "builder-1"]).ok();
        daemon.buildx(&["imagetools", "inspect", &name, "--format", "{{json .Provenance}}"]).ok();
        daemon.buildx(&["rm", "builder-1"]).ok();
    });
}

/// The job's summary, and the record of the build for Docker Desktop.
fn summary(kitchen: &Kitchen, daemon: &Daemon<'_>, reference: &str, name: &str) {
    let inspected =
        daemon.buildx(&["history", "inspect", "--builder", "builder-1", reference, "--format", "json"]).ok();
    let record: serde_json::Value = serde_json::from_str(&inspected.stdout).unwrap();
    assert_eq!(record["Status"], "completed", "{record}");
    assert_eq!(record["Ref"], reference, "{record}");
    assert!(record.to_string().contains("\"V\""), "{record}");
    let file = kitchen.path("build.dockerbuild");
    daemon.buildx(&["history", "export", "--builder", "builder-1", "--output", text(&file), reference]).ok();
    let listed = std::process::Command::new("tar").arg("-tf").arg(&file).output().unwrap();
    assert!(String::from_utf8_lossy(&listed.stdout).contains("blobs/sha256/"), "{listed:?}");
    let listed = daemon.buildx(&["history", "ls", "--builder", "builder-1", "--format", "json"]).ok().stdout;
    assert!(listed.contains(reference), "{listed} {name}");
}

#[test]
fn bake() {
    each(|kitchen, daemon| {
        let Some(registry) = testkit::registry::start() else { return };
        set_up(kitchen, daemon);
        kitchen.write("Dockerfile", "FROM base AS app\nRUN echo app > /app\nFROM app AS test\nRUN cat /app\n");
        let file = format!(
            "group \"default\" {{ targets = [\"app\", \"test\"] }}\n\
             target \"app\" {{\n  target = \"app\"\n  tags = [\"{host}/app:1\"]\n  output = [\"type=registry\"]\n}}\n\
             target \"test\" {{\n  target = \"test\"\n  output = [\"type=cacheonly\"]\n}}\n",
            host = registry.host
        );
        kitchen.write("docker-bake.hcl", &file);
        let metadata = kitchen.path("metadata.json");
        let args = ["bake", "--builder", "builder-1", "--file", "docker-bake.hcl", "--set", "app.args.V=2"];
        let printed = daemon.buildx(&[&args[..], &["--print"]].concat()).ok();
        let printed: serde_json::Value = serde_json::from_str(&printed.stdout).unwrap();
        assert_eq!(printed["target"]["app"]["args"]["V"], "2", "{printed}");
        let provenance = if daemon.is_old() { "*.attest=type=provenance,mode=min" } else { "*.attest=type=provenance" };
        let more = ["--metadata-file", text(&metadata), "--set", provenance, "--progress", "plain"];
        daemon.buildx(&[&args[..], &more].concat()).ok();
        let told = json(&metadata);
        assert!(told["app"]["containerimage.digest"].as_str().unwrap().starts_with("sha256:"), "{told}");
        assert!(told["test"]["buildx.build.ref"].is_string(), "{told}");
        daemon.buildx(&["imagetools", "inspect", &format!("{}/app:1", registry.host)]).ok();
        daemon.buildx(&["rm", "builder-1"]).ok();
    });
}
