//! A client whose registry or bucket is slow, silent or breaks off: what moves may take its time, silence ends, and what was
//! cut off is begun anew. The limits are short here; those of a build are in `attend`.

use std::time::Duration;

use oci::{Descriptor, Digest, Reference};
use registry::{Client, Content, Error};
use testkit::faults::{Fault, Proxy, Rule};

use crate::served::{MANIFEST, Nobody, Served, served};

/// Every time.
const ALWAYS: usize = 1_000;

/// A registry behind a proxy.
async fn stall() -> (Served, Proxy) {
    let served = served().await;
    let proxy = testkit::faults::start(served.base.split_once("://").unwrap().1);
    (served, proxy)
}

fn set(proxy: &Proxy, method: &'static str, path: &str, fault: Fault, times: usize) {
    proxy.set(vec![Rule { method, path: path.to_owned(), fault, times }]);
}

fn client(silence: Duration) -> Client {
    Client::new().with_silence(silence)
}

fn reference(host: &str) -> Reference {
    Reference::parse(&format!("{host}/app:v1")).unwrap()
}

fn noise(length: usize) -> Vec<u8> {
    (0..length as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_may_take_longer_than_silence() {
    let (served, proxy) = stall().await;
    let (from_memory, in_a_file) = (noise(24 << 20), noise((24 << 20) + 1));
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &in_a_file).unwrap();
    let (silence, begun) = (Duration::from_secs(2), std::time::Instant::now());
    for (bytes, content) in
        [(&in_a_file, Content::File(file.path().to_owned())), (&from_memory, Content::Bytes(from_memory.clone()))]
    {
        let what = Descriptor::new("", Digest::of(bytes), bytes.len() as u64);
        set(&proxy, "PUT", "uploads", Fault::Sip(256 << 10, Duration::from_millis(80)), 1);
        client(silence).upload_blob(&reference(&proxy.host), &what, content, &Nobody).await.unwrap();
        assert!(proxy.used());
        served.get(&format!("/v2/app/blobs/{}", what.digest)).await.is(200);
    }
    assert!(begun.elapsed() > silence * 6, "it was not slow");
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_ends() {
    let (served, proxy) = stall().await;
    served.image("app", "v1", b"layer").await;
    let (reference, layer) = (reference(&proxy.host), Descriptor::new("", Digest::of(b"layer"), 5));
    let client = client(Duration::from_millis(300));
    set(&proxy, "GET", "", Fault::Hang, ALWAYS);
    let error = client.manifest(&reference, &Nobody).await.unwrap_err();
    assert!(error.tries() == 2 && error.to_string().contains("nothing came for"), "{error}");
    // Whoever was silent a moment ago is not waited for as long.
    let error = client.manifest(&reference, &Nobody).await.unwrap_err();
    assert!(error.tries() == 1 && error.to_string().contains("0.1 seconds"), "{error}");
    set(&proxy, "PUT", "manifests", Fault::Hang, ALWAYS);
    assert!(client.push_manifest(&reference, MANIFEST, b"{}", &Nobody).await.is_err());
    set(&proxy, "PUT", "uploads", Fault::Hang, ALWAYS);
    let (new, content) = (Descriptor::new("", Digest::of(b"new"), 3), Content::Bytes(b"new".to_vec()));
    assert!(client.upload_blob(&reference, &new, content, &Nobody).await.is_err());
    set(&proxy, "GET", "blobs", Fault::Stall(2), ALWAYS);
    let error = client.blob(&reference, &layer, &Nobody, &mut Vec::new(), &mut |_| {}).await.unwrap_err();
    assert!(error.tries() == 2, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stalls_or_breaks_off_once_goes_on() {
    let (served, proxy) = stall().await;
    let (_, digest) = served.image("app", "v1", b"layer").await;
    let reference = reference(&proxy.host);
    let client = client(Duration::from_secs(3));
    set(&proxy, "GET", "blobs", Fault::Stall(2), 1);
    let (layer, mut out) = (Descriptor::new("", Digest::of(b"layer"), 5), Vec::new());
    client.blob(&reference, &layer, &Nobody, &mut out, &mut |_| {}).await.unwrap();
    assert!(proxy.used() && out == b"layer");
    assert!(proxy.seen().iter().any(|line| line.to_ascii_lowercase().contains("range: bytes=2-")));
    set(&proxy, "GET", "manifests", Fault::Truncate(20), 2);
    let (bytes, _) = client.manifest(&reference, &Nobody).await.unwrap();
    assert!(proxy.used() && Digest::of(&bytes).to_string() == digest);
    set(&proxy, "GET", "tags", Fault::Truncate(3), 1);
    assert_eq!(client.tags(&reference, "", &Nobody).await.unwrap(), ["v1"]);
}

/// Nobody knows what of an upload arrived when it was cut off: it is begun anew, and the blob is there.
#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_was_cut_off_begins_anew() {
    let served = served().await;
    let docker = testkit::registry::start();
    let hosts = [Some(served.base.split_once("://").unwrap().1.to_owned()), docker.as_ref().map(|d| d.host.clone())];
    for host in hosts.into_iter().flatten() {
        let proxy = testkit::faults::start(&host);
        let reference = reference(&proxy.host);
        let client = Client::new();
        let faults = [(1, Fault::Cut(100_000)), (2, Fault::Status(503)), (3, Fault::Reset), (2, Fault::Cut(1))];
        for (more, (number, fault)) in faults.into_iter().enumerate() {
            let bytes = noise(1_000_000 + more);
            let what = Descriptor::new("", Digest::of(&bytes), bytes.len() as u64);
            set(&proxy, "PUT", "uploads", fault.clone(), number);
            client.upload_blob(&reference, &what, Content::Bytes(bytes), &Nobody).await.unwrap();
            assert!(proxy.used(), "{fault:?}");
            assert!(client.has_blob(&reference, &what.digest, "pull", &Nobody).await.unwrap());
        }
        // One that never gets through is an error that says what was in the way.
        set(&proxy, "PUT", "uploads", Fault::Cut(10), ALWAYS);
        let what = Descriptor::new("", Digest::of(b"never"), 5);
        let error = client.upload_blob(&reference, &what, Content::Bytes(b"never".to_vec()), &Nobody).await;
        let error = error.unwrap_err();
        assert!(error.tries() == 4 && matches!(error.last(), Error::Unreachable { .. }), "{error}");
    }
}
