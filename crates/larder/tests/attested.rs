//! Attestations as users of real docker-buildx clients and of `larder build` see them.

use serde_json::Value;

use crate::buildx::{Daemon, each};
use crate::kitchen::Kitchen;

/// What a file of an OCI layout in a tar says.
fn entry(tar: &std::path::Path, name: &str) -> Vec<u8> {
    let mut archive = tar::Archive::new(std::fs::File::open(tar).unwrap());
    let mut found = archive.entries().unwrap().map(Result::unwrap);
    let mut entry = found.find(|e| e.path().unwrap().to_str() == Some(name)).unwrap_or_else(|| panic!("no {name}"));
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut entry, &mut bytes).unwrap();
    bytes
}

fn json(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap()
}

fn blob(tar: &std::path::Path, descriptor: &Value) -> Value {
    let digest = descriptor["digest"].as_str().unwrap();
    json(&entry(tar, &format!("blobs/sha256/{}", digest.trim_start_matches("sha256:"))))
}

/// The index of an image in a tar, and the statements that it lists.
fn statements(tar: &std::path::Path) -> (Value, Vec<Value>) {
    let index = blob(tar, &json(&entry(tar, "index.json"))["manifests"][0]);
    let all = index["manifests"].as_array().unwrap().clone();
    let attested = all.iter().filter(|m| m["annotations"]["vnd.docker.reference.type"] == "attestation-manifest");
    let mut said = Vec::new();
    for descriptor in attested {
        assert_eq!(descriptor["platform"]["os"], "unknown");
        assert!(all.iter().any(|m| m["digest"] == descriptor["annotations"]["vnd.docker.reference.digest"]));
        let manifest = blob(tar, descriptor);
        assert_eq!(manifest["artifactType"], "application/vnd.docker.attestation.manifest.v1+json");
        said.extend(manifest["layers"].as_array().unwrap().iter().map(|layer| blob(tar, layer)));
    }
    (index, said)
}

fn pushed(daemon: &Daemon<'_>, kitchen: &Kitchen, name: &str, args: &[&str]) -> Value {
    let metadata = kitchen.path("metadata.json");
    let all = [&["--push", "-t", name, "--metadata-file", metadata.to_str().unwrap()], args].concat();
    daemon.build(&all).ok();
    json(&std::fs::read(metadata).unwrap())
}

/// buildx asks for provenance of itself: an image gets it, nothing else does, and pushing again changes nothing.
#[test]
fn what_buildx_adds_of_itself() {
    each(|kitchen, daemon| {
        let Some(registry) = testkit::registry::start() else { return };
        let daemon = &daemon.with_defaults();
        kitchen.write("Dockerfile", "FROM base\nCOPY f /f\nRUN cat /f\n");
        kitchen.write("f", "content");
        let name = format!("{}/team/app:1", registry.host);
        let first = pushed(daemon, kitchen, &name, &[]);
        let index = json(&daemon.buildx(&["imagetools", "inspect", "--raw", &name]).ok().stdout.into_bytes());
        assert_eq!(index["manifests"].as_array().map(Vec::len), Some(2), "{index}");
        let shown = daemon.buildx(&["imagetools", "inspect", &name, "--format", "{{json .Provenance}}"]).ok();
        assert!(shown.stdout.contains("pkg:docker/base@latest") || shown.stdout.contains("SLSA"), "{}", shown.stdout);
        let again = pushed(daemon, kitchen, &name, &[]);
        assert_eq!(first["containerimage.digest"], again["containerimage.digest"], "a cached push is another image");
        if !daemon.is_old() {
            let built = &again["buildx.build.provenance"];
            assert_eq!(built["buildType"], "https://mobyproject.org/buildkit@v1", "{again}");
        }
        // Archives for Docker and files have none, as only images take this kind along.
        let (docker, local) = (kitchen.path("docker.tar"), kitchen.path("local"));
        daemon.build(&["-o", &format!("type=docker,dest={}", docker.display())]).ok();
        let manifest = &json(&entry(&docker, "index.json"))["manifests"][0];
        assert!(manifest["mediaType"].as_str().unwrap().contains("manifest"));
        let created = manifest["annotations"]["org.opencontainers.image.created"].as_str().unwrap_or_default();
        assert!(created.starts_with("20") && created.ends_with('Z'), "{manifest}");
        daemon.build(&["-o", &format!("type=local,dest={}", local.display())]).ok();
        assert!(local.join("f").exists() && !local.join("provenance.json").exists());
    });
}

#[test]
fn provenance_tells_what_was_used_and_no_secret() {
    each(|kitchen, daemon| {
        let text = "FROM base AS one\n\
            ARG NPM_TOKEN\n\
            ARG GREETING\n\
            RUN --mount=type=secret,id=tok,required=true test \"$(cat /run/secrets/tok)\" = \"$(echo hush)-hush\"\n\
            FROM base\nCOPY --from=one /etc /copied\n";
        kitchen.write("Dockerfile", text);
        kitchen.write("tok", "hush-hush");
        let tar = kitchen.path("out.tar");
        let output = format!("type=oci,dest={}", tar.display());
        let args =
            ["--secret", "id=tok,src=tok", "--build-arg", "NPM_TOKEN=very-secret", "--build-arg", "GREETING=hello"];
        daemon.build(&[&args[..], &["--provenance", "mode=max", "-t", "app", "-o", &output]].concat()).ok();
        let (_, said) = statements(&tar);
        let [statement] = said.as_slice() else { panic!("{said:?}") };
        assert_eq!(statement["_type"], "https://in-toto.io/Statement/v1");
        assert_eq!(statement["predicateType"], "https://slsa.dev/provenance/v1");
        assert!(statement["subject"][0]["name"].as_str().unwrap().starts_with("pkg:docker/app@latest?platform="));
        let predicate = &statement["predicate"];
        let definition = &predicate["buildDefinition"];
        let base = &definition["resolvedDependencies"][0];
        assert!(base["uri"].as_str().unwrap().starts_with("pkg:docker/base@latest"), "{base}");
        assert_eq!(base["digest"]["sha256"].as_str().map(str::len), Some(64), "{base}");
        let request = &definition["externalParameters"]["request"];
        assert_eq!(request["args"]["build-arg:GREETING"], "hello");
        assert_eq!(request["secrets"], serde_json::json!([{ "id": "tok" }]));
        let locals: Vec<_> = request["locals"].as_array().unwrap().iter().map(|l| l["name"].clone()).collect();
        assert_eq!(locals, ["context", "dockerfile"]);
        assert!(predicate["runDetails"]["metadata"]["buildkit_metadata"]["layers"]["step0:0"].is_array());
        let whole = std::fs::read(&tar).unwrap();
        for secret in ["hush-hush", "very-secret"] {
            let found = whole.windows(secret.len()).any(|part| part == secret.as_bytes());
            assert!(!found, "{secret} is in the image's archive");
        }
    });
}

#[test]
fn files_get_their_statements_beside_them() {
    each(|kitchen, daemon| {
        kitchen.write("Dockerfile", "FROM scratch\nCOPY f /f\n");
        kitchen.write("f", "content");
        let out = kitchen.path("out");
        let output = format!("type=local,dest={},attestation-prefix=said-", out.display());
        daemon.build(&["--provenance", "mode=min,version=v0.2", "-o", &output]).ok();
        let statement = json(&std::fs::read(out.join("said-provenance.json")).unwrap());
        assert_eq!(statement["predicateType"], "https://slsa.dev/provenance/v0.2");
        assert_eq!(statement["subject"][0]["name"], "f");
        assert_eq!(statement["predicate"]["invocation"]["parameters"]["frontend"], "dockerfile.v0");
        let tar = kitchen.path("out.tar");
        let platforms = ["--platform", "linux/amd64,linux/arm64"];
        let output = format!("type=tar,dest={}", tar.display());
        daemon.build(&[&platforms[..], &["--provenance", "true", "-o", &output]].concat()).ok();
        for platform in ["linux_amd64", "linux_arm64"] {
            assert_eq!(entry(&tar, &format!("{platform}/f")), b"content");
            let statement = json(&entry(&tar, &format!("{platform}/provenance.json")));
            assert_eq!(statement["predicateType"], "https://slsa.dev/provenance/v1");
        }
    });
}

/// A scanner is an image that writes statements about the files that it is shown.
#[test]
fn a_scanner_says_what_is_in_it() {
    each(|kitchen, daemon| {
        let Some(registry) = testkit::registry::start() else { return };
        let scanner = format!("{}/scan:1", registry.host);
        kitchen.write("scanner.sh", SCANNER);
        kitchen.write("Dockerfile", "FROM base\nCOPY scanner.sh /scan\nENTRYPOINT [\"sh\", \"/scan\"]\n");
        daemon.build(&["--push", "-t", &scanner]).ok();
        let text = "FROM scratch AS lower\nARG BUILDKIT_SBOM_SCAN_STAGE=true\nCOPY scanner.sh /x\n\
            FROM scratch\nARG BUILDKIT_SBOM_SCAN_CONTEXT=true\nCOPY --from=lower /x /y\n";
        kitchen.write("Dockerfile", text);
        let tar = kitchen.path("out.tar");
        let output = format!("type=oci,dest={}", tar.display());
        let sbom = format!("generator={scanner},GREETING=hello");
        daemon.build(&["--provenance", "mode=max", "--sbom", &sbom, "-t", "app", "-o", &output]).ok();
        let (_, said) = statements(&tar);
        let mut names: Vec<String> =
            said.iter().filter_map(|s| Some(s["predicate"]["name"].as_str()?.to_owned())).collect();
        names.sort();
        assert_eq!(
            names,
            ["sbom hello y", "sbom-context hello Dockerfile scanner.sh", "sbom-lower hello x"],
            "{said:?}"
        );
        let core = said.iter().find(|s| s["predicate"]["name"] == "sbom hello y").unwrap();
        let files = &core["predicate"]["files"];
        assert!(files[0]["comment"].as_str().unwrap().starts_with("layerID: sha256:"), "{files}");
        assert!(files[1].get("comment").is_none(), "{files}");
        let provenance = said.iter().find(|s| s["predicateType"] == "https://slsa.dev/provenance/v1").unwrap();
        let used = provenance["predicate"]["buildDefinition"]["resolvedDependencies"].to_string();
        assert!(used.contains("/scan@1"), "the scanner is no material: {used}");
    });
}

const SCANNER: &str = r#"set -e
say() {
    name="$(basename "$1") $BUILDKIT_SCAN_GREETING $(ls "$1" | tr '\n' ' ' | sed 's/ $//')"
    printf '{"_type":"https://in-toto.io/Statement/v1","predicateType":"https://spdx.dev/Document","predicate":{"name":"%s","files":[{"fileName":"/y"},{"fileName":"gone"}]}}' \
        "$name" > "$BUILDKIT_SCAN_DESTINATION/$(basename "$1").spdx.json"
}
say "$BUILDKIT_SCAN_SOURCE"
for extra in "$BUILDKIT_SCAN_SOURCE_EXTRAS"/*; do say "$extra"; done
"#;

/// The same flags without a daemon.
#[test]
fn larder_build_attests_too() {
    let Some(kitchen) = Kitchen::new() else { return };
    kitchen.write("Dockerfile", "FROM base\nRUN true\n");
    let tar = kitchen.path("out.tar");
    let output = format!("type=oci,dest={}", tar.display());
    let metadata = kitchen.path("metadata.json");
    let context = kitchen.context();
    let build = |more: &[&str]| {
        let fixed = ["build", context.to_str().unwrap(), "-o", &output, "--metadata-file", metadata.to_str().unwrap()];
        kitchen.larder(&[&fixed[..], more].concat())
    };
    build(&["--provenance", "mode=max,builder-id=https://example.invalid/me"]).ok();
    let (_, said) = statements(&tar);
    assert_eq!(said[0]["predicate"]["runDetails"]["builder"]["id"], "https://example.invalid/me");
    let told = json(&std::fs::read(&metadata).unwrap());
    assert_eq!(told["buildx.build.provenance"]["buildType"], "https://mobyproject.org/buildkit@v1", "{told}");
    // With SOURCE_DATE_EPOCH no statement tells a time, so that the same build gives the same bytes.
    let epoch = ["--provenance", "mode=max", "--build-arg", "SOURCE_DATE_EPOCH=1"];
    build(&epoch).ok();
    let first = statements(&tar);
    assert!(first.1[0]["predicate"]["runDetails"]["metadata"].get("startedOn").is_none(), "{:?}", first.1);
    kitchen.larder(&["history", "rm", "--all"]).ok();
    build(&epoch).ok();
    assert_eq!(first, statements(&tar));
    assert_ne!(build(&["--attest", "type=other"]).code, 0);
}
