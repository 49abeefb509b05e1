//! Registries that ask who is there: passwords and tokens, from docker's configuration and from credential helpers; a mirror
//! and certificates by the configuration file; and a download that goes on where the connection broke.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use base64::Engine;
use testkit::faults::{Fault, Rule};

use crate::kitchen::{Kitchen, Ran};
use crate::registry::Serving;

/// What `docker login` writes for `me`.
fn auth(secret: &str) -> String {
    base64::engine::general_purpose::STANDARD.encode(format!("me:{secret}"))
}

fn log_in(kitchen: &Kitchen, config: &str) {
    std::fs::create_dir_all(kitchen.path(".docker")).unwrap();
    std::fs::write(kitchen.path(".docker/config.json"), config).unwrap();
}

fn with_auth(kitchen: &Kitchen, host: &str, secret: &str) {
    log_in(kitchen, &format!("{{\"auths\":{{\"{host}\":{{\"auth\":\"{}\"}}}}}}", auth(secret)));
}

/// Builds in an empty store, so that everything comes from registries.
fn elsewhere(kitchen: &Kitchen, name: &str, args: &[&str]) -> Ran {
    let context = kitchen.context();
    let mut command = kitchen.command(&kitchen.path(name), &["build", "--progress", "plain"]);
    let path = format!("{}:{}", kitchen.path("bin").display(), std::env::var("PATH").unwrap());
    Ran::of(command.args(args).arg(context).env("PATH", path).output().unwrap())
}

fn push(kitchen: &Kitchen, image: &str) -> Ran {
    kitchen.write("Dockerfile", "FROM base\nRUN echo pushed > /pushed\n");
    kitchen.build(&["--push", "-t", image])
}

fn users(kitchen: &Kitchen) -> PathBuf {
    let users = kitchen.path("users");
    std::fs::write(&users, testkit::registry::USERS).unwrap();
    users
}

/// A program that gives `me` for hosts that it is asked for, and fails in its own words for others.
fn helper(kitchen: &Kitchen, name: &str, host: &str) {
    std::fs::create_dir_all(kitchen.path("bin")).unwrap();
    let path = kitchen.path("bin").join(format!("docker-credential-{name}"));
    let script = format!(
        "#!/bin/sh\nread host\n[ \"$1\" = get ] || exit 2\necho \"$host\" >> {}\n\
         if [ \"$host\" = {host} ]; then echo '{{\"ServerURL\":\"{host}\",\"Username\":\"me\",\"Secret\":\"password\"}}'; exit; fi\n\
         echo 'credentials not found in native keychain'; exit 1\n",
        kitchen.path("asked").display()
    );
    std::fs::write(&path, script).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn passwords_of_dockers_configuration_and_of_helpers() {
    let Some(kitchen) = Kitchen::new() else { return };
    let users = users(&kitchen);
    let basic = format!("auth:\n  htpasswd:\n    realm: test\n    path: {}\n", users.display());
    let Some(registry) = testkit::registry::start_with(&basic) else { return };
    let host = &registry.host;
    let image = format!("{host}/team/app:1");
    let refused = push(&kitchen, &image);
    assert_eq!(refused.code, 1, "{}", refused.stderr);
    assert!(refused.stderr.contains(&format!("docker login {host}")), "{}", refused.stderr);
    with_auth(&kitchen, host, "wrong");
    assert_eq!(push(&kitchen, &image).code, 1);
    // A key of old, with a scheme and a path.
    with_auth(&kitchen, &format!("http://{host}/v1/"), "password");
    push(&kitchen, &image).ok();
    kitchen.write("Dockerfile", &format!("FROM {image}\nRUN cat /pushed\n"));
    with_auth(&kitchen, host, "password");
    elsewhere(&kitchen, "a", &[]).ok();
    // Helpers: one for this host, then one for all.
    helper(&kitchen, "one", host);
    log_in(&kitchen, &format!("{{\"credHelpers\":{{\"{host}\":\"one\"}}}}"));
    elsewhere(&kitchen, "b", &[]).ok();
    assert!(std::fs::read_to_string(kitchen.path("asked")).unwrap().contains(host));
    log_in(&kitchen, "{\"credsStore\":\"one\"}");
    elsewhere(&kitchen, "c", &[]).ok();
    // One that has none for the host, one that fails, one that is not there: each is told apart.
    helper(&kitchen, "one", "other.example");
    let none = elsewhere(&kitchen, "d", &[]);
    assert!(none.code == 1 && none.stderr.contains("docker login"), "{}", none.stderr);
    std::fs::write(kitchen.path("bin/docker-credential-one"), "#!/bin/sh\necho the vault is sealed >&2; exit 3\n")
        .unwrap();
    let broken = elsewhere(&kitchen, "e", &[]);
    assert!(broken.code == 1 && broken.stderr.contains("the vault is sealed"), "{}", broken.stderr);
    log_in(&kitchen, "{\"credsStore\":\"absent\"}");
    let absent = elsewhere(&kitchen, "f", &[]);
    assert!(absent.code == 1 && absent.stderr.contains("docker-credential-absent"), "{}", absent.stderr);
    // A daemon elsewhere asks its client.
    with_auth(&kitchen, host, "password");
    let address = format!("tcp://127.0.0.1:{}", crate::served::port());
    let served = crate::served::Served::start(&kitchen, Some(address), &["--without-tls"]);
    kitchen.write("Dockerfile", &format!("FROM {image}\nRUN echo again > /pushed\n"));
    served.build(&["--pull", "--push", "-t", &format!("{host}/team/app:2")]).ok();
}

#[test]
fn tokens_of_a_token_service() {
    let Some(kitchen) = Kitchen::new() else { return };
    let Some(tokens) = testkit::tokens::start(&kitchen.path("context")) else { return };
    let Some(registry) = testkit::registry::start_with(&tokens.config) else { return };
    let host = &registry.host;
    let image = format!("{host}/team/app:1");
    assert_eq!(push(&kitchen, &image).code, 1, "who gives no name may only read");
    let seen = tokens.seen();
    assert!(seen.iter().all(|line| line.starts_with("nobody repository:team/app:")), "{seen:?}");
    with_auth(&kitchen, host, "wrong");
    let refused = push(&kitchen, &image);
    assert!(refused.code == 1 && refused.stderr.contains("401"), "{}", refused.stderr);
    tokens.seen();
    with_auth(&kitchen, host, "password");
    push(&kitchen, &image).ok();
    let seen = tokens.seen();
    assert!(seen.contains(&"me repository:team/app:pull,push".to_owned()), "{seen:?}");
    // A token serves many requests.
    assert!(seen.len() <= 2, "{seen:?}");
    let identity = |token: &str| format!("{{\"auths\":{{\"{host}\":{{\"identitytoken\":\"{token}\"}}}}}}");
    kitchen.write("Dockerfile", &format!("FROM {image}\nRUN cat /pushed\n"));
    log_in(&kitchen, &identity(testkit::tokens::IDENTITY));
    elsewhere(&kitchen, "a", &[]).ok();
    assert_eq!(tokens.seen(), ["identity repository:team/app:pull"]);
    log_in(&kitchen, &identity("somebody-else"));
    assert_eq!(elsewhere(&kitchen, "b", &[]).code, 1);
    assert_eq!(tokens.seen(), ["refused repository:team/app:pull"]);
    log_in(&kitchen, "{}");
    elsewhere(&kitchen, "c", &[]).ok();
    assert_eq!(tokens.seen(), ["nobody repository:team/app:pull"]);
}

#[test]
fn larders_own_registry_with_users() {
    let Some(kitchen) = Kitchen::new() else { return };
    let users = users(&kitchen);
    let rules = ["--htpasswd", users.to_str().unwrap(), "--allow", "me=team/*:pull,push"];
    let serving = Serving::start(&kitchen.path("registry"), &rules);
    let image = format!("{}/team/app:1", serving.host);
    assert_eq!(push(&kitchen, &image).code, 1);
    with_auth(&kitchen, &serving.host, "password");
    push(&kitchen, &image).ok();
    assert_eq!(push(&kitchen, &format!("{}/other/app:1", serving.host)).code, 1, "not one of its repositories");
    kitchen.write("Dockerfile", &format!("FROM {image}\nRUN cat /pushed\n"));
    elsewhere(&kitchen, "a", &[]).ok();
}

#[test]
fn a_download_goes_on_where_the_connection_broke() {
    let Some(kitchen) = Kitchen::new() else { return };
    let Some(registry) = testkit::registry::start() else { return };
    let proxy = testkit::faults::start(&registry.host);
    kitchen.write("Dockerfile", "FROM base\nRUN head -c 3000000 /dev/urandom > /large\n");
    kitchen.build(&["--push", "-t", &format!("{}/team/app:1", registry.host)]).ok();
    kitchen.write("Dockerfile", &format!("FROM {}/team/app:1\nRUN wc -c /large\n", proxy.host));
    let cut = |times| Rule { method: "GET", path: "/blobs/".to_owned(), fault: Fault::Truncate(100_000), times };
    proxy.set(vec![cut(3)]);
    let ran = elsewhere(&kitchen, "a", &[]).ok();
    assert!(ran.stderr.contains("3000000 /large"), "{}", ran.stderr);
    let seen = proxy.seen();
    assert!(proxy.used() && seen.iter().any(|line| line.to_lowercase().ends_with(" range: bytes=100000-")), "{seen:?}");
    // What comes damaged is never used.
    proxy.set(vec![Rule { fault: Fault::Corrupt, ..cut(usize::MAX) }]);
    let damaged = elsewhere(&kitchen, "b", &[]);
    assert!(damaged.code == 1 && damaged.stderr.contains("is damaged"), "{}", damaged.stderr);
    proxy.set(vec![]);
    elsewhere(&kitchen, "b", &[]).ok();
}

#[test]
fn mirrors_and_certificates_by_the_configuration() {
    let Some(kitchen) = Kitchen::new() else { return };
    let Some(plain) = testkit::registry::start() else { return };
    let Some(authority) = testkit::tls::Authority::new(&kitchen.path("authority")) else { return };
    let ((server, server_key), (client, client_key)) = (authority.issue("server"), authority.issue("client"));
    let ca = authority.certificate.display();
    let (server, server_key) = (server.display(), server_key.display());
    let tls = format!("  tls:\n    certificate: {server}\n    key: {server_key}\n    clientcas: [{ca}]\n");
    let Some(secure) = testkit::registry::start_with(&tls) else { return };
    push(&kitchen, &format!("{}/proxy/team/app:1", plain.host)).ok();
    kitchen.write("Dockerfile", "FROM registry.example/team/app:1\nRUN cat /pushed\n");
    let config = kitchen.path("larder.toml");
    let configured = |name: &str, text: &str, args: &[&str]| {
        std::fs::write(&config, text).unwrap();
        elsewhere(&kitchen, name, &[&["--config", config.to_str().unwrap()], args].concat())
    };
    // A mirror with a path, where the host itself can't be reached.
    let mirror = format!("[registry.\"registry.example\"]\nmirrors = [\"{}/proxy\"]\n", plain.host);
    configured("a", &mirror, &[]).ok();
    // The daemon reads the same file.
    let addr = format!("tcp://127.0.0.1:{}", crate::served::port());
    let flags = ["--without-tls", "--config", config.to_str().unwrap()];
    let served = crate::served::Served::start(&kitchen, Some(addr), &flags);
    served.build(&["--pull"]).ok();
    drop(served);
    // TLS with a client's certificate, by an authority of our own; then without looking at the certificate.
    let (client, client_key) = (client.display(), client_key.display());
    let pair = format!("keypair = [{{ key = \"{client_key}\", cert = \"{client}\" }}]\n");
    let section = format!("[registry.\"{}\"]\nhttp = false\n", secure.host);
    let image = format!("{}/team/app:1", secure.host);
    kitchen.write("Dockerfile", "FROM base\nRUN echo pushed > /pushed\n");
    let push = ["--root", &kitchen.root().display().to_string(), "--push", "-t", &image];
    let untrusted = configured("b", &format!("{section}{pair}"), &push);
    assert!(untrusted.code == 1 && untrusted.stderr.contains("certificate"), "{}", untrusted.stderr);
    let nobody = configured("b", &format!("{section}ca = [\"{ca}\"]\n"), &push);
    assert_eq!(nobody.code, 1, "{}", nobody.stderr);
    configured("b", &format!("{section}{pair}ca = [\"{ca}\"]\n"), &push).ok();
    kitchen.write("Dockerfile", &format!("FROM {image}\nRUN cat /pushed\n"));
    configured("c", &format!("{section}{pair}insecure = true\n"), &[]).ok();
    // Plain HTTP where TLS is tried first.
    kitchen.write("Dockerfile", &format!("FROM {}/proxy/team/app:1\nRUN cat /pushed\n", plain.host));
    let either = format!("[registry.\"{}\"]\nhttp = true\ninsecure = true\n", plain.host);
    configured("d", &either, &[]).ok();
    let wrong = configured("e", "registry = 3\n", &[]);
    assert!(wrong.code == 2 && wrong.stderr.contains("larder.toml"), "{}", wrong.stderr);
}
