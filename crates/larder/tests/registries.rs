//! Push to and pull from a real registry on loopback.

use crate::kitchen::Kitchen;

#[test]
fn what_is_pushed_is_built_on() {
    let Some(kitchen) = Kitchen::new() else { return };
    let Some(registry) = testkit::registry::start() else { return };
    let name = format!("{}/team/app:1", registry.host);
    kitchen.write("Dockerfile", "FROM base\nRUN echo pushed > /pushed\n");
    kitchen.build(&["--push", "-t", &name]).ok();
    // Another machine: an empty store that knows nothing of the image.
    let other = kitchen.path("other");
    kitchen.write("Dockerfile", &format!("FROM {name}\nRUN cat /pushed > /copy\n"));
    let context = kitchen.context();
    let build = ["build", "--progress", "plain", "-t", "top", context.to_str().unwrap()];
    let first = kitchen.larder_in(&other, &build).ok();
    assert!(first.stderr.contains("[internal] load metadata for"), "{}", first.stderr);
    let second = kitchen.larder_in(&other, &build).ok();
    assert_eq!(second.missed(), 0, "{}", second.stderr);
    let missing = format!("FROM {}/team/none\nRUN true\n", registry.host);
    kitchen.write("Dockerfile", &missing);
    let ran = kitchen.larder_in(&other, &build);
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("team/none"), "{}", ran.stderr);
}

/// Serves one text to whoever asks, and counts them.
fn serve(text: &'static str) -> (u16, std::sync::Arc<std::sync::atomic::AtomicUsize>) {
    use std::io::{Read, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let asked = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = asked.clone();
    // Ends with the test's process.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).unwrap();
            count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            let answer = format!(
                "HTTP/1.1 200 OK\r\nLast-Modified: Sunday, 06-Nov-94 08:49:37 UTC\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}",
                text.len()
            );
            stream.write_all(answer.as_bytes()).unwrap();
        }
    });
    (port, asked)
}

#[test]
fn files_from_the_web() {
    let Some(kitchen) = Kitchen::new() else { return };
    let (port, asked) = serve("from the web");
    kitchen.write(
        "Dockerfile",
        &format!("FROM scratch\nADD --chmod=640 http://127.0.0.1:{port}/dir/file.txt?x=1 /got/\n"),
    );
    let out = kitchen.files(&[]);
    assert_eq!(std::fs::read_to_string(out.join("got/file.txt")).unwrap(), "from the web");
    let changed = std::fs::metadata(out.join("got/file.txt")).unwrap().modified().unwrap();
    let seconds = changed.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    assert_eq!(seconds, 784_111_777, "as old as the server says");
    assert_eq!(kitchen.build(&[]).ok().missed(), 0);
    let checksum = oci::Digest::of(b"from the web");
    let with = |sum: &oci::Digest| format!("FROM scratch\nADD --checksum={sum} http://127.0.0.1:{port}/file /file\n");
    kitchen.write("Dockerfile", &with(&checksum));
    let before = asked.load(std::sync::atomic::Ordering::SeqCst);
    let out = kitchen.files(&[]);
    assert_eq!(std::fs::read_to_string(out.join("file")).unwrap(), "from the web");
    assert_eq!(asked.load(std::sync::atomic::Ordering::SeqCst), before, "the blob of that checksum is here already");
    kitchen.write("Dockerfile", &with(&oci::Digest::of(b"something else")));
    let wrong = kitchen.build(&[]);
    assert_eq!(wrong.code, 1);
    assert!(wrong.stderr.contains("expected the bytes of"), "{}", wrong.stderr);
}

/// A server that names its file by an `ETag` is asked for the file once.
#[test]
fn files_that_did_not_change_are_not_fetched_again() {
    use std::io::{Read, Write};
    let Some(kitchen) = Kitchen::new() else { return };
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let said = std::sync::Arc::new(std::sync::Mutex::new((String::from("one"), Vec::new())));
    let server = said.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = [0; 4096];
            let length = stream.read(&mut request).unwrap();
            let request = String::from_utf8_lossy(&request[..length]).into_owned();
            let mut said = server.lock().unwrap();
            let (method, text) = (request.split(' ').next().unwrap_or_default().to_owned(), said.0.clone());
            said.1.push(method.clone());
            let known = request.contains(&format!("if-none-match: \"{text}\""));
            let (status, body) = match (known, method.as_str()) {
                (true, _) => ("304 Not Modified", ""),
                (false, "HEAD") => ("200 OK", ""),
                _ => ("200 OK", text.as_str()),
            };
            let length = text.len();
            let head = format!("HTTP/1.1 {status}\r\nETag: \"{text}\"\r\nContent-Length: {length}\r\n");
            stream.write_all(format!("{head}Connection: close\r\n\r\n{body}").as_bytes()).unwrap();
        }
    });
    kitchen.write("Dockerfile", &format!("FROM scratch\nADD http://127.0.0.1:{port}/f /f\n"));
    let build = || std::fs::read_to_string(kitchen.files(&[]).join("f")).unwrap();
    let asked = || std::mem::take(&mut said.lock().unwrap().1);
    assert_eq!((build(), asked()), ("one".to_owned(), vec!["GET".to_owned()]));
    assert_eq!((build(), asked()), ("one".to_owned(), vec!["HEAD".to_owned()]));
    said.lock().unwrap().0 = "two".to_owned();
    assert_eq!((build(), asked()), ("two".to_owned(), vec!["HEAD".to_owned(), "GET".to_owned()]));
}
