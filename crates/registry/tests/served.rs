//! A registry on a port of its own, in a folder of its own, and a client that says exactly what is sent.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use registry::Login;
use registry::s3::{Address, Bucket, Keys};
use registry::server::{Options, Place, Registry};
use reqwest::header::HeaderMap;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sha2::Digest as _;

pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// A running registry.
pub struct Served {
    /// `http://127.0.0.1:PORT`.
    pub base: String,
    pub http: reqwest::Client,
    pub registry: Arc<Registry>,
    /// Its folder.
    pub root: std::path::PathBuf,
    /// What keeps its bytes, where that is a bucket.
    pub bucket: Option<testkit::s3::Server>,
    _folder: tempfile::TempDir,
}

/// Who has no credentials.
pub struct Nobody;

impl Login for Nobody {
    fn credentials<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Option<(String, String)>, String>> {
        Box::pin(async { Ok(None) })
    }
}

/// An answer, read to its end.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Answer {
    #[track_caller]
    pub fn is(self, status: u16) -> Answer {
        assert_eq!(self.status.as_u16(), status, "{:?} {}", self.headers, String::from_utf8_lossy(&self.body));
        self
    }

    /// It is an error in the specification's form, with this code.
    #[track_caller]
    pub fn refused(self, status: u16, code: &str) -> Answer {
        let answer = self.is(status);
        let body = answer.json();
        let errors = body["errors"].as_array().expect("a list of errors");
        assert!(errors.iter().any(|error| error["code"] == code), "{body}");
        answer
    }

    #[track_caller]
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).unwrap_or_else(|| panic!("no {name} in {:?}", self.headers)).to_str().unwrap()
    }

    pub fn has(&self, name: &str) -> bool {
        self.headers.contains_key(name)
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

pub async fn served() -> Served {
    served_with(|_| {}).await
}

pub async fn served_with(change: impl FnOnce(&mut Options)) -> Served {
    // All tests pass in a bucket as well, but for those that look into the folder or at parts of a second: to be run by hand.
    if std::env::var_os("LARDER_TEST_BUCKET").is_some() {
        return in_bucket(testkit::s3::moto_with("bkt"), change).await.expect("a server of buckets");
    }
    // Another test of this process may have been first.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let folder = tempfile::tempdir().unwrap();
    let mut options = Options::new(folder.path());
    change(&mut options);
    let tls = options.tls.is_some();
    serve(Registry::open(options).unwrap(), tls, folder, None).await
}

/// A registry whose bytes are in a bucket; `None`, loudly, where no server of buckets is.
pub async fn in_bucket(server: Option<testkit::s3::Server>, change: impl FnOnce(&mut Options)) -> Option<Served> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let server = server?;
    let folder = tempfile::tempdir().unwrap();
    let mut options = Options::new(folder.path());
    change(&mut options);
    let tls = options.tls.is_some();
    let registry = Registry::open_in(options, place(&server.host)).await.unwrap();
    Some(serve(registry, tls, folder, Some(server)).await)
}

/// A part of the bucket `bkt`.
pub fn place(host: &str) -> Place {
    let (id, secret) = (testkit::s3::KEY.to_owned(), testkit::s3::SECRET.to_owned());
    let (bucket, region, endpoint) = ("bkt".to_owned(), "us-east-1".to_owned(), Some(format!("http://{host}")));
    let address = Address { bucket, region, endpoint, path_style: true };
    let keys = Some(Keys { id, secret, token: None, until: None });
    let bucket = Bucket::new(&registry::Client::new(), &address, keys, None).unwrap();
    Place { bucket, prefix: "reg/".to_owned() }
}

async fn serve(
    registry: Arc<Registry>,
    tls: bool,
    folder: tempfile::TempDir,
    bucket: Option<testkit::s3::Server>,
) -> Served {
    let scheme = if tls { "https" } else { "http" };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("{scheme}://{}", listener.local_addr().unwrap());
    tokio::spawn(registry.clone().serve(listener, std::future::pending()));
    let http = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .tls_danger_accept_invalid_certs(true)
        .build()
        .unwrap();
    Served { base, http, registry, root: folder.path().to_owned(), bucket, _folder: folder }
}

impl Served {
    pub async fn ask(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<reqwest::Body>,
    ) -> Answer {
        let url = if path.starts_with("http") { path.to_owned() } else { format!("{}{path}", self.base) };
        let mut request = self.http.request(Method::from_bytes(method.as_bytes()).unwrap(), url).body(body);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = request.send().await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        let body = response.bytes().await.unwrap().to_vec();
        Answer { status, headers, body }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, &[], "").await
    }

    pub async fn head(&self, path: &str) -> Answer {
        self.ask("HEAD", path, &[], "").await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.ask("DELETE", path, &[], "").await
    }

    /// Starts an upload and returns its location.
    pub async fn start(&self, name: &str) -> String {
        let answer = self.ask("POST", &format!("/v2/{name}/blobs/uploads/"), &[("content-length", "0")], "").await;
        answer.is(202).header("location").to_owned()
    }

    /// Pushes a blob and returns its descriptor.
    pub async fn blob(&self, name: &str, bytes: &[u8]) -> Value {
        let digest = sha256(bytes);
        let path = format!("/v2/{name}/blobs/uploads/?digest={digest}");
        self.ask("POST", &path, &[], bytes.to_vec()).await.is(201);
        json!({ "mediaType": "application/octet-stream", "digest": digest, "size": bytes.len() })
    }

    /// Pushes a manifest.
    pub async fn put(&self, name: &str, target: &str, kind: &str, document: &Value) -> Answer {
        let path = format!("/v2/{name}/manifests/{target}");
        self.ask("PUT", &path, &[("content-type", kind)], document.to_string()).await
    }

    /// Pushes an image of one layer with these bytes under a tag; returns the manifest and its digest.
    pub async fn image(&self, name: &str, tag: &str, layer: &[u8]) -> (Value, String) {
        let document = self.manifest(name, layer).await;
        self.put(name, tag, MANIFEST, &document).await.is(201);
        let digest = sha256(document.to_string().as_bytes());
        (document, digest)
    }

    /// A manifest whose blobs are pushed, and which is not.
    pub async fn manifest(&self, name: &str, layer: &[u8]) -> Value {
        let (mut config, layer) = (self.blob(name, b"{}").await, self.blob(name, layer).await);
        config["mediaType"] = "application/vnd.oci.image.config.v1+json".into();
        json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer] })
    }
}

pub fn sha256(bytes: &[u8]) -> String {
    oci::Digest::of(bytes).to_string()
}

pub fn sha512(bytes: &[u8]) -> String {
    let hex: String = sha2::Sha512::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha512:{hex}")
}

/// The descriptor of a document as it is pushed.
pub fn descriptor(document: &Value, kind: &str) -> Value {
    let bytes = document.to_string();
    json!({ "mediaType": kind, "digest": sha256(bytes.as_bytes()), "size": bytes.len() })
}
