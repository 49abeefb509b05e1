//! The client of GitHub's cache service against a service that holds to its rules.

use std::time::Duration;

use oci::{Descriptor, Digest};
use registry::gha::{Reserved, Service};
use registry::{Client, Content, Error};

const BRANCH: &[(&str, u32)] = &[("refs/heads/topic", 3), ("refs/heads/main", 1)];

fn client(service: &testkit::gha::Service, scopes: &[(&str, u32)], timeout: u64) -> Service {
    Service::new(&Client::new(), &service.url(), &service.token(scopes), Duration::from_secs(timeout)).unwrap()
}

async fn put(client: &Service, key: &str, bytes: &[u8]) -> bool {
    match client.reserve(key).await.unwrap() {
        Reserved::Yes(upload) => client.write(upload, Content::Bytes(bytes.to_vec())).await.map(|()| true).unwrap(),
        Reserved::Taken => false,
    }
}

#[tokio::test]
async fn entries_are_written_once_and_found_by_scope() {
    let service = testkit::gha::start();
    let main = client(&service, &[("refs/heads/main", 3)], 60);
    let topic = client(&service, BRANCH, 60);
    assert!(put(&main, "index#1", b"main").await && put(&main, "index#2", b"main two").await);
    assert!(!put(&main, "index#1", b"other").await);
    // A branch reads its own before main's, and main does not read a branch's.
    let text = async |client: &Service, key: &str, longer| {
        let entry = client.find(key, longer).await.unwrap()?;
        Some(String::from_utf8(client.read(&entry).await.unwrap()).unwrap())
    };
    assert_eq!(text(&topic, "index#", true).await.as_deref(), Some("main two"));
    assert_eq!(text(&topic, "index#", false).await, None);
    assert_eq!(text(&topic, "index#1", false).await.as_deref(), Some("main"));
    assert!(put(&topic, "index#1", b"topic").await);
    assert_eq!(text(&topic, "index#", true).await.as_deref(), Some("topic"));
    assert_eq!(text(&main, "index#", true).await.as_deref(), Some("main two"));
    // What is reserved is taken, and not found before it is finished.
    let Reserved::Yes(_) = main.reserve("slow").await.unwrap() else { panic!("it was taken") };
    assert!(matches!(main.reserve("slow").await.unwrap(), Reserved::Taken));
    assert_eq!(text(&main, "slow", false).await, None);
    // A token that only reads.
    let reader = client(&service, &[("refs/heads/main", 1)], 60);
    assert!(matches!(reader.reserve("x").await, Err(Error::Forbidden { .. })));
}

#[tokio::test]
async fn what_is_large_goes_in_blocks_and_comes_back() {
    let service = testkit::gha::start();
    let client = client(&service, BRANCH, 60);
    let bytes: Vec<u8> = (0..(17 << 20) + 3).map(|i: u32| (i / 251) as u8).collect();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &bytes).unwrap();
    let Reserved::Yes(upload) = client.reserve("large").await.unwrap() else { panic!("it was taken") };
    client.write(upload, Content::File(file.path().to_owned())).await.unwrap();
    assert_eq!(service.seen().iter().filter(|line| line.starts_with("PUT /blob")).count(), 4);
    let what = Descriptor::new("", Digest::of(&bytes), bytes.len() as u64);
    let mut out = Vec::new();
    client.blob("large", &what, &mut out, &mut |_| {}).await.unwrap();
    assert!(out == bytes);
    // An address that has expired is asked for anew.
    service.expire();
    out.clear();
    client.blob("large", &what, &mut out, &mut |_| {}).await.unwrap();
    assert!(out == bytes);
    let wrong = Descriptor::new("", Digest::of(b"other"), 5);
    let error = client.blob("large", &wrong, &mut Vec::new(), &mut |_| {}).await.unwrap_err();
    assert!(matches!(error, Error::WrongDigest { .. }), "{error}");
    let error = client.blob("none", &wrong, &mut Vec::new(), &mut |_| {}).await.unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error}");
}

#[tokio::test]
async fn too_many_requests_are_waited_for_as_long_as_there_is_time() {
    let service = testkit::gha::start();
    service.refuse(2);
    assert_eq!(client(&service, BRANCH, 60).find("x", true).await.unwrap(), None);
    service.refuse(100);
    let error = client(&service, BRANCH, 2).find("x", true).await.unwrap_err();
    assert!(error.tries() >= 2 && error.to_string().contains("too many requests"), "{error}");
    service.refuse(0);
    let stranger = testkit::gha::start().token(BRANCH);
    let stranger = format!("{stranger}x");
    let client = Service::new(&Client::new(), &service.url(), &stranger, Duration::from_secs(9)).unwrap();
    let error = client.find("x", true).await.unwrap_err();
    assert!(matches!(error, Error::Forbidden { status: 401, .. }), "{error}");
    assert!(!error.to_string().contains(&stranger), "{error}");
}
