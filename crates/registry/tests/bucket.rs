//! The client of buckets against real servers: one that checks every signature, one that hands out keys of roles, and a
//! proxy that breaks answers between.

use std::collections::BTreeMap;
use std::io::{Read, Write};

use oci::{Descriptor, Digest};
use registry::s3::{Address, Ambient, Bucket, Keys, Only, Written};
use registry::{Client, Content, Error};
use testkit::faults::{Fault, Rule};
use testkit::s3::{KEY, SECRET};

fn address(host: &str, bucket: &str) -> Address {
    let (bucket, region, endpoint) = (bucket.to_owned(), "us-east-1".to_owned(), Some(format!("http://{host}")));
    Address { bucket, region, endpoint, path_style: true }
}

fn keys() -> Option<Keys> {
    Some(Keys { id: KEY.to_owned(), secret: SECRET.to_owned(), token: None, until: None })
}

fn bucket(host: &str) -> Bucket {
    Bucket::new(&Client::new(), &address(host, "bkt"), keys(), None).unwrap()
}

/// Bytes that do not compress and have no period.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 1_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..length).map(|_| next()).collect()
}

#[tokio::test]
async fn objects() {
    let Some(server) = testkit::s3::start("bkt") else { return };
    let bucket = bucket(&server.host);
    for key in ["a/sha256:0f", "b c+d&e=f%20g", "ü/~x'()*!"] {
        assert_eq!(bucket.read(key).await.unwrap(), None);
        assert_eq!(bucket.look(key).await.unwrap(), None);
        let Written::Yes(tag) = bucket.write(key, key.as_bytes().to_vec(), &Only::IfAbsent).await.unwrap() else {
            panic!("{key} was there")
        };
        assert_eq!(bucket.write(key, "x", &Only::IfAbsent).await.unwrap(), Written::Overtaken);
        assert_eq!(bucket.read(key).await.unwrap().unwrap().0, key.as_bytes());
        assert!(matches!(bucket.write(key, "y", &Only::IfSame(tag.clone())).await.unwrap(), Written::Yes(_)));
        assert_eq!(bucket.write(key, "z", &Only::IfSame(tag)).await.unwrap(), Written::Overtaken);
        let object = bucket.look(key).await.unwrap().unwrap();
        assert_eq!(object.size, 1);
        let age = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis();
        assert!(age.abs_diff(u128::from(object.modified)) < 60_000, "{object:?}");
        bucket.touch(key, 1).await.unwrap();
        assert_eq!(bucket.read(key).await.unwrap().unwrap().0, b"y");
        bucket.remove(key).await.unwrap();
        bucket.remove(key).await.unwrap();
        assert_eq!(bucket.read(key).await.unwrap(), None);
    }
}

#[tokio::test]
async fn lists_have_pages() {
    let Some(server) = testkit::s3::start("bkt") else { return };
    let bucket = bucket(&server.host);
    // More than a page has; written beside the server, which is fast.
    std::fs::create_dir_all(server.file("bkt", "many/deep")).unwrap();
    for n in 0..1005 {
        std::fs::write(server.file("bkt", &format!("many/{n:04}")), "x").unwrap();
    }
    std::fs::write(server.file("bkt", "many/deep/er"), "x").unwrap();
    let all = bucket.list("many/").await.unwrap();
    assert_eq!(all.len(), 1006);
    assert!(all.iter().all(|object| object.size == 1 && object.modified > 0));
    assert_eq!(bucket.list("many/09").await.unwrap().len(), 100);
    assert_eq!(bucket.list("none").await.unwrap(), []);
    let level = bucket.level("many/").await.unwrap();
    assert_eq!(level.objects.len(), 1005);
    assert_eq!(level.deeper.into_iter().collect::<Vec<_>>(), ["many/deep/"]);
}

#[tokio::test]
async fn what_is_large_goes_in_parts() {
    let Some(server) = testkit::s3::start("bkt") else { return };
    let proxy = testkit::faults::start(&server.host);
    let bucket = bucket(&proxy.host);
    let bytes = noise((20 << 20) + 5);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &bytes).unwrap();
    // A part that fails once is sent again.
    let rule = |method, path: &str, fault, times| Rule { method, path: path.to_owned(), fault, times };
    proxy.set(vec![rule("PUT", "partNumber=2", Fault::Status(503), 1)]);
    bucket.upload("large", Content::File(file.path().to_owned())).await.unwrap();
    assert!(proxy.used());
    assert_eq!(proxy.seen().iter().filter(|line| line.contains("partNumber")).count(), 4);
    assert_eq!(Digest::of(&std::fs::read(server.file("bkt", "large")).unwrap()), Digest::of(&bytes));
    // A connection that breaks goes on where it broke, as long as that helps.
    let what = Descriptor::new("", Digest::of(&bytes), bytes.len() as u64);
    let (mut out, mut told) = (Vec::new(), 0);
    proxy.set(vec![rule("GET", "large", Fault::Truncate(1 << 20), 1), rule("GET", "large", Fault::Truncate(5), 1)]);
    bucket.blob("large", &what, &mut out, &mut |now| told = now).await.unwrap();
    assert!(proxy.used() && out == bytes && told == what.size);
    proxy.set(vec![rule("GET", "large", Fault::Truncate(7), 100)]);
    let error = bucket.blob("large", &what, &mut Vec::new(), &mut |_| {}).await.unwrap_err();
    assert_eq!(error.tries(), 4, "{error}");
    proxy.set(vec![rule("GET", "large", Fault::Corrupt, 1)]);
    let error = bucket.blob("large", &what, &mut Vec::new(), &mut |_| {}).await.unwrap_err();
    assert!(matches!(error, Error::WrongDigest { .. }), "{error}");
    // One that can't be finished leaves nothing behind.
    proxy.set(vec![rule("PUT", "partNumber=3", Fault::Status(500), 100)]);
    let error = bucket.upload("other", Content::Bytes(bytes)).await.unwrap_err();
    assert!(error.tries() == 4 && error.to_string().contains("500"), "{error}");
    assert!(proxy.seen().iter().any(|line| line.starts_with("DELETE ") && line.contains("uploadId=")));
    assert_eq!(bucket.look("other").await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_ends_and_what_moves_may_take_its_time() {
    let Some(server) = testkit::s3::start("bkt") else { return };
    let proxy = testkit::faults::start(&server.host);
    let client = |silence| Client::new().with_silence(std::time::Duration::from_millis(silence));
    let bucket = |silence| Bucket::new(&client(silence), &address(&proxy.host, "bkt"), keys(), None).unwrap();
    let rule = |method, path: &str, fault, times| Rule { method, path: path.to_owned(), fault, times };
    proxy.set(vec![rule("GET", "a", Fault::Hang, 100), rule("PUT", "b", Fault::Hang, 100)]);
    let error = bucket(300).read("a").await.unwrap_err();
    assert!(error.tries() == 2 && error.to_string().contains("nothing came for"), "{error}");
    assert!(bucket(300).write("b", "x", &Only::Always).await.is_err());
    proxy.set(vec![rule("PUT", "c", Fault::Sip(256 << 10, std::time::Duration::from_millis(250)), 100)]);
    bucket(2_000).upload("c", Content::Bytes(noise(8 << 20))).await.unwrap();
    assert_eq!(bucket(2_000).look("c").await.unwrap().unwrap().size, 8 << 20);
}

#[tokio::test]
async fn refusals_are_told() {
    let Some(server) = testkit::s3::start("bkt") else { return };
    let wrong = Keys { secret: "other".to_owned(), ..keys().unwrap() };
    let stranger = Bucket::new(&Client::new(), &address(&server.host, "bkt"), Some(wrong), None).unwrap();
    let error = stranger.read("x").await.unwrap_err();
    assert!(matches!(error, Error::Forbidden { status: 403, .. }), "{error}");
    assert!(error.to_string().contains("SignatureDoesNotMatch") && error.to_string().contains("s3://bkt/x"), "{error}");
    let proxy = testkit::faults::start(&server.host);
    proxy.set(vec![Rule { method: "PUT", path: "x".to_owned(), fault: Fault::Reset, times: 100 }]);
    let error = bucket(&proxy.host).write("x", "y", &Only::Always).await.unwrap_err();
    assert_eq!(error.tries(), 4, "{error}");
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    assert!(matches!(bucket(&closed).read("x").await.unwrap_err().last(), Error::Unreachable { .. }));
    // Without keys it is said where they were looked for.
    let variables = BTreeMap::from([("AWS_EC2_METADATA_DISABLED".to_owned(), "true".to_owned())]);
    let client = Client::new().with_ambient(Ambient { variables, home: None });
    let error = Bucket::new(&client, &address(&server.host, "bkt"), None, None).unwrap().read("x").await.unwrap_err();
    assert!(error.to_string().contains("AWS_ACCESS_KEY_ID") && error.to_string().contains("~/.aws"), "{error}");
}

/// Answers requests for keys as a container's or a machine's metadata service does.
fn metadata() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let host = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut head = [0; 2048];
            let length = stream.read(&mut head).unwrap();
            let text = String::from_utf8_lossy(&head[..length]).to_lowercase();
            let keys = format!(
                r#"{{"AccessKeyId":"{KEY}","SecretAccessKey":"{SECRET}","Token":null,"Expiration":"2100-01-01T00:00:00Z"}}"#
            );
            let (status, body) = match () {
                () if text.starts_with("put /latest/api/token") => (200, "tok".to_owned()),
                () if text.starts_with("get /container") && text.contains("authorization: shown") => (200, keys),
                () if !text.contains("x-aws-ec2-metadata-token: tok") => (401, String::new()),
                () if text.contains("/security-credentials/ http") => (200, "role\n".to_owned()),
                () if text.contains("/security-credentials/role http") => (200, keys),
                () => (404, String::new()),
            };
            let length = body.len();
            let answer = format!("HTTP/1.1 {status} X\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}");
            stream.write_all(answer.as_bytes()).unwrap();
        }
    });
    host
}

fn with(variables: &[(&str, &str)]) -> Client {
    let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Client::new().with_ambient(Ambient { variables, home: None })
}

#[tokio::test]
async fn keys_are_found_where_aws_tools_find_them() {
    let Some(server) = testkit::s3::start("bkt") else { return };
    let (host, folder) = (metadata(), tempfile::tempdir().unwrap());
    let (machine, container) = (format!("http://{host}"), format!("http://{host}/container"));
    let file = folder.path().join("credentials");
    let process = format!("printf '{{\"AccessKeyId\":\"{KEY}\",\"SecretAccessKey\":\"{SECRET}\",\"Version\":1}}'");
    std::fs::write(&file, format!("[one]\ncredential_process = {process}\n")).unwrap();
    let file = file.to_str().unwrap();
    let off = ("AWS_EC2_METADATA_DISABLED", "true");
    for variables in [
        vec![("AWS_ACCESS_KEY_ID", KEY), ("AWS_SECRET_ACCESS_KEY", SECRET)],
        vec![("AWS_EC2_METADATA_SERVICE_ENDPOINT", machine.as_str())],
        vec![("AWS_CONTAINER_CREDENTIALS_FULL_URI", &container), ("AWS_CONTAINER_AUTHORIZATION_TOKEN", "shown"), off],
        vec![("AWS_SHARED_CREDENTIALS_FILE", file), ("AWS_PROFILE", "one"), off],
    ] {
        let bucket = Bucket::new(&with(&variables), &address(&server.host, "bkt"), None, None).unwrap();
        assert_eq!(bucket.read("x").await.unwrap(), None, "{variables:?}");
    }
}

#[tokio::test]
async fn roles_are_taken_on() {
    let Some(server) = testkit::s3::moto() else { return };
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    std::fs::write(&token, "web\n").unwrap();
    let config = folder.path().join("config");
    let role = "arn:aws:iam::123456789012:role/cache";
    let text = format!("[profile ci]\nrole_arn = {role}\ncredential_source = Environment\n");
    std::fs::write(&config, text).unwrap();
    let url = format!("http://{}", server.host);
    let common = [("AWS_ENDPOINT_URL_STS", url.as_str()), ("AWS_EC2_METADATA_DISABLED", "true")];
    let own = [("AWS_ACCESS_KEY_ID", "AKIA1"), ("AWS_SECRET_ACCESS_KEY", "s")];
    let web = [("AWS_ROLE_ARN", role), ("AWS_WEB_IDENTITY_TOKEN_FILE", token.to_str().unwrap())];
    let profile = [("AWS_CONFIG_FILE", config.to_str().unwrap()), ("AWS_PROFILE", "ci")];
    for (variables, role) in [
        ([&common[..], &own].concat(), Some(role.to_owned())),
        ([&common[..], &web].concat(), None),
        ([&common[..], &own, &profile].concat(), None),
    ] {
        let wallet = Bucket::new(&with(&variables), &address(&server.host, "bkt"), None, role).unwrap();
        let keys = wallet.keys().await.unwrap();
        assert!(keys.id.starts_with("ASIA") && keys.token.is_some() && keys.until.is_some(), "{variables:?} {keys:?}");
        // moto has no bucket of this name; what counts is that it was asked with these keys.
        assert!(wallet.read("x").await.is_err());
    }
}
