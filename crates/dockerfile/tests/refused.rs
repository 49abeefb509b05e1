//! What a Dockerfile may not say, with BuildKit's words for it: found before anything runs.

use std::collections::BTreeMap;

use dockerfile::lower::Options;
use oci::Platform;

/// The first error of a Dockerfile; `None` for one that can be built.
fn error(text: &str) -> Option<String> {
    let (file, errors) = dockerfile::parse(text.as_bytes());
    let platform = Platform::new("linux", "amd64", "");
    let lowered = dockerfile::lower(&file, &Options::new(platform.clone(), platform), &BTreeMap::new());
    errors.into_iter().chain(lowered.err().unwrap_or_default()).map(|error| error.message).next()
}

#[test]
fn signals() {
    for signal in ["SIGTERM", "term", "9", "RTMIN+15", "SIGRTMAX-1", "$S"] {
        assert_eq!(error(&format!("FROM scratch\nARG S=KILL\nSTOPSIGNAL {signal}\n")), None, "{signal}");
    }
    for signal in ["0", "SIGNOTHING", "RTMIN+16", "RTMAX-0", "RTMIN+"] {
        let found = error(&format!("FROM scratch\nSTOPSIGNAL {signal}\n")).unwrap();
        assert!(found.starts_with("invalid signal: "), "{signal}: {found}");
    }
}

#[test]
fn volumes_and_checksums() {
    assert_eq!(error("FROM scratch\nVOLUME []\n").as_deref(), Some("VOLUME requires at least one argument"));
    let add = |checksum: &str| error(&format!("FROM scratch\nADD --checksum={checksum} https://example.com/a /\n"));
    assert_eq!(add(&format!("sha256:{}", "0".repeat(64))), None);
    for checksum in ["sha256:12", "abc", "md5:d41d8cd98f00b204e9800998ecf8427e"] {
        assert!(add(checksum).unwrap().starts_with("invalid checksum digest format"), "{checksum}");
    }
}
