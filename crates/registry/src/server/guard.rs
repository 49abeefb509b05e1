//! The door: who a request comes from, and whether they may do what it asks for. A registry without users lets anybody do
//! everything, and so is kept to loopback by whoever starts it.
//! Passwords come by `Basic`; whoever has none to send with each request gets a token at `/token` (distribution's "Token
//! Authentication Specification", which docker, containerd, skopeo and buildah speak).

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use http_body_util::{BodyExt, Limited};
use hyper::{Method, StatusCode};
use tokio::sync::Semaphore;

use super::answer::{Answer, json};
use super::arriving::Arriving;
use super::name::Repository;
use super::refusal::Refusal;
use super::route::{Query, Route};
use super::service::Ask;
use super::tokens::{Grant, LIFETIME, REFRESH, Signer, Token, parse_scope};
use super::users::{Action, Users, Who};
use super::{Registry, now};

/// Bytes of a form that asks for a token.
const FORM: usize = 64 << 10;

/// The name by which clients ask for tokens.
const SERVICE: &str = "larder";

/// Who is let in.
pub struct Guard {
    users: std::sync::Arc<Users>,
    signer: Signer,
    /// Where clients reach this registry, where that is not what they call it.
    url: Option<String>,
    secure: bool,
    /// Passwords are checked by few at a time: each check is slow on purpose.
    checks: Semaphore,
}

/// Who a request comes from.
#[derive(Clone, Debug)]
pub enum Caller {
    /// Nobody asks who.
    Anybody,
    /// A user with a password, or nobody in particular.
    User(Who),
    /// The holder of a token.
    Holder(Token),
}

impl Guard {
    /// Lets these users in. `url`: where clients reach the registry, if they call it otherwise. `secure`: by TLS.
    pub fn new(users: Users, secret: &[u8], url: Option<String>, secure: bool) -> Guard {
        let checks = Semaphore::new(2);
        Guard { users: std::sync::Arc::new(users), signer: Signer::new(secret), url, secure, checks }
    }

    /// Who sends a request; a wrong password or a token that is not good is refused.
    async fn caller(&self, ask: &Ask) -> Result<Caller, Refusal> {
        let Some(header) = ask.header("authorization") else { return Ok(Caller::User(None)) };
        let (scheme, rest) = header.split_once(' ').unwrap_or((header, ""));
        if scheme.eq_ignore_ascii_case("bearer") {
            let token = self.signer.read(rest.trim(), now() / 1000).filter(|token| !token.refresh);
            return token.map(Caller::Holder).ok_or_else(|| Refusal::unauthorized("the token is not good (any more)"));
        }
        let pair = BASE64.decode(rest.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        match pair.as_deref().and_then(|pair| pair.split_once(':')) {
            Some((user, password)) if scheme.eq_ignore_ascii_case("basic") => self.log_in(user, password).await,
            _ => Err(Refusal::unauthorized("the header Authorization is neither Basic nor Bearer")),
        }
    }

    async fn log_in(&self, user: &str, password: &str) -> Result<Caller, Refusal> {
        let failed = |error: &dyn std::fmt::Display| Refusal::failed(error.to_string());
        let _turn = self.checks.acquire().await.map_err(|error| failed(&error))?;
        let (users, name, password) = (self.users.clone(), user.to_owned(), password.to_owned());
        let right = tokio::task::spawn_blocking(move || users.check(&name, &password)).await;
        if right.map_err(|error| failed(&error))? {
            return Ok(Caller::User(Some(user.to_owned())));
        }
        Err(Refusal::unauthorized("the user or the password is wrong"))
    }

    /// Whether a caller may do something.
    fn may(&self, caller: &Caller, name: &Repository, action: Action) -> bool {
        match caller {
            Caller::Anybody => true,
            Caller::User(who) => self.users.may(who, name, action),
            Caller::Holder(token) => token.may(name, action),
        }
    }

    /// A refusal that says where to get a token, and for what.
    fn challenge(&self, ask: &Ask, refusal: Refusal, scope: Option<String>) -> Refusal {
        let authority = ask.parts.uri.authority().map(|authority| authority.as_str());
        let host = ask.header("host").or(authority).unwrap_or_default();
        let here = || format!("{}://{host}", if self.secure { "https" } else { "http" });
        let url = self.url.clone().unwrap_or_else(here);
        let scope = scope.map(|scope| format!(",scope=\"{scope}\"")).unwrap_or_default();
        refusal.with("www-authenticate", format!("Bearer realm=\"{url}/token\",service=\"{SERVICE}\"{scope}"))
    }
}

/// Lets a request in, or refuses it.
pub async fn enter(registry: &Registry, ask: &Ask, route: &Route) -> Result<Caller, Refusal> {
    let Some(guard) = &registry.guard else { return Ok(Caller::Anybody) };
    if *route == Route::Token {
        return Ok(Caller::User(None));
    }
    let needs = needs(route, &ask.parts.method);
    let scope = || match (&needs, route) {
        (Some((name, actions)), _) => {
            let words: Vec<_> = actions.iter().map(|action| action.word()).collect();
            Some(format!("repository:{name}:{}", words.join(",")))
        }
        (None, Route::Catalog) => Some("registry:catalog:*".to_owned()),
        (None, _) => None,
    };
    let caller = match guard.caller(ask).await {
        Ok(caller) => caller,
        Err(refusal) if refusal.status == StatusCode::UNAUTHORIZED => {
            return Err(guard.challenge(ask, refusal, scope()));
        }
        Err(refusal) => return Err(refusal),
    };
    let (may, named) = match (&needs, &caller) {
        (Some((name, actions)), caller) => {
            (actions.iter().all(|action| guard.may(caller, name, *action)), matches!(caller, Caller::User(Some(_))))
        }
        // Whoever asks without saying who is told where to say it.
        (None, Caller::User(None)) => (false, false),
        (None, Caller::Holder(token)) => (*route != Route::Catalog || token.may_list(), false),
        (None, Caller::Anybody | Caller::User(Some(_))) => (true, true),
    };
    if may {
        Ok(caller)
    } else if named {
        Err(Refusal::denied(format!("you may not do this at {}", ask.parts.uri.path())))
    } else {
        Err(guard.challenge(ask, Refusal::unauthorized("log in first"), scope()))
    }
}

/// Whether the caller may also do this, in a repository that the address does not name.
pub fn may(registry: &Registry, caller: &Caller, name: &Repository, action: Action) -> bool {
    registry.guard.as_ref().is_none_or(|guard| guard.may(caller, name, action))
}

/// Whether the caller may have whatever lies on this machine: only where nobody asks who it is.
pub fn is_open(caller: &Caller) -> bool {
    matches!(caller, Caller::Anybody)
}

/// What a request does to which repository.
fn needs(route: &Route, method: &Method) -> Option<(Repository, Vec<Action>)> {
    let actions = match route {
        Route::Support | Route::Token | Route::Catalog => return None,
        Route::Uploads(_) | Route::Upload(..) => vec![Action::Pull, Action::Push],
        Route::Manifest(..) if *method == Method::PUT => vec![Action::Pull, Action::Push],
        _ if *method == Method::DELETE => vec![Action::Delete],
        _ => vec![Action::Pull],
    };
    route.repository().map(|name| (name.clone(), actions))
}

/// `GET` (by `Basic`) and `POST` (by a form) of `/token`.
pub async fn token(registry: &Registry, ask: Ask) -> Result<Answer, Refusal> {
    let Some(guard) = &registry.guard else { return Err(Refusal::no_such_page("this registry needs no tokens")) };
    let (who, query) = if ask.parts.method == Method::POST {
        let form = read_form(ask.body).await?;
        (guard.by_form(&form).await?, form)
    } else {
        match guard.caller(&ask).await? {
            Caller::User(who) => (who, ask.query),
            // A token is good for what it grants, not for more.
            Caller::Anybody | Caller::Holder(_) => return Err(Refusal::unauthorized("log in by user and password")),
        }
    };
    let mut grants = Vec::new();
    for (name, wanted) in query.all("scope").flat_map(str::split_whitespace).filter_map(parse_scope) {
        if name == "*" {
            grants.extend(who.as_ref().map(|_| Grant { name, actions: vec!["*".to_owned()] }));
        } else if let Ok(repository) = Repository::parse(&name) {
            let granted = wanted.into_iter().filter(|action| guard.users.may(&who, &repository, *action));
            grants.push(Grant { name, actions: granted.map(|action| action.word().to_owned()).collect() });
        }
    }
    let signed = |grants, lifetime, refresh| {
        guard.signer.sign(&Token { user: who.clone(), grants, until: now() / 1000 + lifetime, refresh })
    };
    let token = signed(grants, LIFETIME, false);
    let mut body = serde_json::json!({ "token": token, "access_token": token, "expires_in": LIFETIME });
    let offline = query.get("offline_token") == Some("true") || query.get("access_type") == Some("offline");
    if offline && who.is_some() {
        body["refresh_token"] = signed(Vec::new(), REFRESH, true).into();
    }
    Ok(json(StatusCode::OK, "application/json", body.to_string().into_bytes()))
}

impl Guard {
    /// Who a form says that it is from (RFC 6749, 4.3 and 6).
    async fn by_form(&self, form: &Query) -> Result<Who, Refusal> {
        let field = |name: &str| form.get(name).unwrap_or_default().to_owned();
        match form.get("grant_type") {
            Some("password") => match self.log_in(&field("username"), &field("password")).await? {
                Caller::User(who) => Ok(who),
                Caller::Anybody | Caller::Holder(_) => Ok(None),
            },
            Some("refresh_token") => {
                let token = self.signer.read(&field("refresh_token"), now() / 1000).filter(|token| token.refresh);
                // A user who is gone gets no more tokens.
                let token = token.filter(|token| token.user.as_deref().is_some_and(|user| self.users.has(user)));
                Ok(token.ok_or_else(|| Refusal::unauthorized("the refresh token is not good (any more)"))?.user)
            }
            _ => Err(Refusal::query_invalid("grant_type must be `password` or `refresh_token`")),
        }
    }
}

async fn read_form(body: Arriving) -> Result<Query, Refusal> {
    let read = Limited::new(body, FORM).collect().await;
    let bytes = read.map_err(|error| Refusal::query_invalid(format!("the form can't be read: {error}")))?.to_bytes();
    Ok(Query::parse(&String::from_utf8_lossy(&bytes), true))
}
