//! Users, rules, tokens and TLS: who is let in, and to what.

use base64::Engine;
use registry::server::{Action, Rule, Tls, Users};
use serde_json::Value;

use crate::served::{MANIFEST, Served, served_with, sha256};

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}")))
}

/// `ci` may write to `team/*` and everybody who logs in may read it; anybody may read `public/*`; `boss` may everything.
async fn guarded() -> Served {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("htpasswd");
    let line = |user: &str| format!("{user}:{}\n", bcrypt::hash(format!("{user}'s"), 4).unwrap());
    std::fs::write(&file, ["ci", "dev", "boss"].map(line).concat()).unwrap();
    let rule = |user: &str, repositories: &str, actions: &[Action]| Rule {
        user: user.to_owned(),
        repositories: repositories.to_owned(),
        actions: actions.to_vec(),
    };
    let rules = vec![
        rule("anonymous", "public/*", &[Action::Pull]),
        rule("*", "team/*", &[Action::Pull]),
        rule("ci", "team/*", &[Action::Push]),
        rule("boss", "*", &[Action::Pull, Action::Push, Action::Delete]),
    ];
    served_with(|options| options.users = Some(Users::read(&file, rules).unwrap())).await
}

async fn status(served: &Served, method: &str, path: &str, login: Option<&str>) -> u16 {
    let headers: Vec<_> = login.map(|login| ("authorization", login)).into_iter().collect();
    served.ask(method, path, &headers, "").await.status.as_u16()
}

async fn token(served: &Served, login: Option<&str>, scope: &str) -> Value {
    let headers: Vec<_> = login.map(|login| ("authorization", login)).into_iter().collect();
    let path = format!("/token?service=larder&scope={scope}&offline_token=true");
    served.ask("GET", &path, &headers, "").await.is(200).json()
}

#[tokio::test]
async fn without_a_login_there_is_a_challenge_that_says_where_to_log_in() {
    let served = guarded().await;
    let answer = served.get("/v2/").await.refused(401, "UNAUTHORIZED");
    let challenge = answer.header("www-authenticate").to_owned();
    assert_eq!(challenge, format!("Bearer realm=\"{}/token\",service=\"larder\"", served.base));
    let answer = served.ask("POST", "/v2/team/a/blobs/uploads/", &[], "").await.refused(401, "UNAUTHORIZED");
    assert!(answer.header("www-authenticate").ends_with(",scope=\"repository:team/a:pull,push\""));
    assert_eq!(status(&served, "GET", "/v2/", Some(&basic("ci", "ci's"))).await, 200);
    for wrong in [basic("ci", "dev's"), basic("nobody", "x"), "Basic !".into(), "Bearer x.y".into(), "Digest x".into()]
    {
        assert_eq!(status(&served, "GET", "/v2/", Some(&wrong)).await, 401, "{wrong}");
    }
}

#[tokio::test]
async fn rules_hold_for_passwords_and_for_tokens() {
    let served = guarded().await;
    let none = sha256(b"none");
    let blob = |name: &str| format!("/v2/{name}/blobs/{none}");
    let uploads = |name: &str| format!("/v2/{name}/blobs/uploads/");
    // 404 is what is behind the door.
    let cases = [
        (None, "GET", blob("public/a"), 404),
        (None, "GET", blob("team/a"), 401),
        (None, "POST", uploads("public/a"), 401),
        (Some("dev"), "GET", blob("team/a"), 404),
        (Some("dev"), "POST", uploads("team/a"), 403),
        (Some("dev"), "GET", blob("other"), 403),
        (Some("ci"), "POST", uploads("team/a"), 202),
        (Some("ci"), "DELETE", blob("team/a"), 403),
        (Some("boss"), "DELETE", blob("team/a"), 404),
    ];
    for (user, method, path, expected) in &cases {
        let login = user.map(|user| basic(user, &format!("{user}'s")));
        assert_eq!(status(&served, method, path, login.as_deref()).await, *expected, "{user:?} {method} {path}");
        // The same with a token for everything that could be asked for: it grants what the rules do.
        let name = path.trim_start_matches("/v2/").split("/blobs").next().unwrap();
        let answer = token(&served, login.as_deref(), &format!("repository:{name}:pull,push,delete")).await;
        let bearer = format!("Bearer {}", answer["token"].as_str().unwrap());
        let expected = if *expected == 403 { 401 } else { *expected };
        assert_eq!(status(&served, method, path, Some(&bearer)).await, expected, "token of {user:?} {method} {path}");
    }
}

#[tokio::test]
async fn a_token_is_good_for_what_it_was_asked_for_alone() {
    let served = guarded().await;
    let boss = basic("boss", "boss's");
    let answer = token(&served, Some(&boss), "repository:team/a:pull").await;
    assert_eq!(answer["token"], answer["access_token"]);
    let bearer = format!("Bearer {}", answer["token"].as_str().unwrap());
    let blob = |name: &str| format!("/v2/{name}/blobs/{}", sha256(b"none"));
    assert_eq!(status(&served, "GET", &blob("team/a"), Some(&bearer)).await, 404);
    assert_eq!(status(&served, "GET", &blob("team/b"), Some(&bearer)).await, 401);
    assert_eq!(status(&served, "DELETE", &blob("team/a"), Some(&bearer)).await, 401);
    assert_eq!(status(&served, "GET", "/v2/_catalog", Some(&bearer)).await, 401);
    assert_eq!(status(&served, "GET", "/token?scope=repository:x:pull", Some(&bearer)).await, 401);
    // A refresh token gives other tokens, and opens nothing itself.
    let refresh = answer["refresh_token"].as_str().unwrap();
    assert_eq!(status(&served, "GET", "/v2/", Some(&format!("Bearer {refresh}"))).await, 401);
    let form = |fields: &str| format!("{fields}&service=larder&scope=repository%3Ateam%2Fb%3Apull");
    let kind = [("content-type", "application/x-www-form-urlencoded")];
    for fields in [
        format!("grant_type=refresh_token&refresh_token={refresh}"),
        "grant_type=password&username=dev&password=dev%27s".into(),
    ] {
        let answer = served.ask("POST", "/token", &kind, form(&fields)).await.is(200).json();
        let bearer = format!("Bearer {}", answer["access_token"].as_str().unwrap());
        assert_eq!(status(&served, "GET", &blob("team/b"), Some(&bearer)).await, 404);
    }
    for fields in ["grant_type=password&username=dev&password=x", "grant_type=refresh_token&refresh_token=x.y"] {
        served.ask("POST", "/token", &kind, form(fields)).await.refused(401, "UNAUTHORIZED");
    }
}

#[tokio::test]
async fn nothing_is_mounted_from_where_one_may_not_read() {
    let served = guarded().await;
    let (boss, ci) = (basic("boss", "boss's"), basic("ci", "ci's"));
    let digest = sha256(b"secret");
    let path = format!("/v2/private/blobs/uploads/?digest={digest}");
    served.ask("POST", &path, &[("authorization", &boss)], "secret").await.is(201);
    let path = format!("/v2/team/a/blobs/uploads/?mount={digest}&from=private");
    served.ask("POST", &path, &[("authorization", &ci)], "").await.is(202);
    served.ask("POST", &path, &[("authorization", &boss)], "").await.is(201);
}

#[tokio::test]
async fn over_tls() {
    let folder = tempfile::tempdir().unwrap();
    let Some((certificate, key)) = testkit::tls::certificate(folder.path()) else { return };
    let served = served_with(|options| options.tls = Some(Tls::read(&certificate, &key).unwrap())).await;
    assert!(served.base.starts_with("https://"));
    let (document, _) = served.image("a", "v1", &vec![7; 2_000_000]).await;
    assert_eq!(served.get("/v2/a/manifests/v1").await.is(200).json(), document);
    served.put("a", "v2", MANIFEST, &document).await.is(201);
    assert!(Tls::read(&key, &key).is_err());
}

/// A client of HTTP/2 hears why it is refused, also while it still sends.
#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_arrives_before_the_body_has() {
    let folder = tempfile::tempdir().unwrap();
    let Some((certificate, key)) = testkit::tls::certificate(folder.path()) else { return };
    let users = folder.path().join("users");
    std::fs::write(&users, testkit::registry::USERS).unwrap();
    let served = served_with(|options| {
        options.tls = Some(Tls::read(&certificate, &key).unwrap());
        options.users = Some(Users::read(&users, Vec::new()).unwrap());
    })
    .await;
    let body = folder.path().join("body");
    std::fs::write(&body, vec![1; 3_000_000]).unwrap();
    let (address, data) = (format!("{}/v2/a/blobs/uploads/", served.base), format!("@{}", body.display()));
    let ask = move || {
        let mut curl = std::process::Command::new("curl");
        curl.args(["-sk", "--http2", "-o", "/dev/null", "-w", "%{http_code}", "--data-binary", &data, &address]);
        curl.output()
    };
    for _ in 0..5 {
        let Ok(output) = tokio::task::spawn_blocking(ask.clone()).await.unwrap() else {
            eprintln!("SKIPPED: curl is missing");
            return;
        };
        assert_eq!(String::from_utf8_lossy(&output.stdout), "401");
    }
}
