//! Sessions of clients: who is connected, and which services each offers. The daemon calls the client through them.
//! A session is found by its id for as long as its stream lives; nothing of it outlives that.

mod agent;
mod content;
pub mod mirror;
pub mod nearby;
mod port;
mod send;
pub mod tunnel;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use proto::control::BytesMessage;
use proto::health::HealthCheckRequest;
use proto::health::health_client::HealthClient;
use tokio::sync::{Notify, SetOnce};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::metadata::MetadataMap;
use tonic::transport::Channel;
use tonic::{Code, Request, Status, Streaming};

pub use port::{Form, Port};

/// How long a lookup waits for a session that is about to come: clients open it beside their first call.
const WAIT: Duration = Duration::from_secs(5);
/// How a client is looked after (BuildKit's times).
const USUAL: Care = Care { pause: Duration::from_secs(5), patience: Duration::from_secs(15), failures: 2 };
/// A client's own wish for that, in milliseconds.
const OWN_PATIENCE: &str = "x-buildkit-session-health-custom-timeout";
/// How long the answer to a call waits for the beginning of the session's connection: it never decides about a build.
const SETTLING: Duration = Duration::from_secs(1);
/// Largest message either way (BuildKit's limit).
pub const MESSAGE: usize = 16 << 20;

/// How a client is looked after: how often it is asked for its health, how long an answer may take, and how many in a row may
/// fail to come.
#[derive(Clone, Copy)]
struct Care {
    pause: Duration,
    patience: Duration,
    failures: u32,
}

impl Care {
    /// The usual one, or the client's own.
    fn of(wish: &str) -> Care {
        match wish.parse().map(Duration::from_millis) {
            Ok(time) if !time.is_zero() => {
                let time = time.max(Duration::from_secs(1));
                Care { pause: time, patience: time, failures: 1 }
            }
            _ => USUAL,
        }
    }
}

/// A connected client.
pub struct Client {
    /// The client's key for its directories: the same in every build of one context.
    pub shared_key: String,
    /// Files that look unchanged are asked for and compared as well (`[context] verify = "content"`).
    pub verify: bool,
    /// Its directories, when they can be read where they are.
    pub nearby: Option<nearby::Nearby>,
    /// `/package.Service/Method` in lower case.
    methods: HashSet<String>,
    channel: Channel,
    /// Set when the first question was answered, or was not in time.
    settled: SetOnce<()>,
}

impl Client {
    /// Whether the client offers a method.
    pub fn offers(&self, method: &str) -> bool {
        self.methods.contains(&method.to_lowercase())
    }

    /// The connection, for a service's client.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// Ends when the connection's beginning has gone both ways, or soon after. A call is not answered before: BuildKit's
    /// client closes its session then, and takes bytes that still come for the ones before them ("server connection
    /// error … PROTOCOL_ERROR" in the user's terminal, seen once in two hundred builds of a few milliseconds).
    pub async fn settled(&self) {
        let _in_time = tokio::time::timeout(SETTLING, self.settled.wait()).await;
    }
}

/// All connected clients.
#[derive(Clone, Default)]
pub struct Sessions(Arc<Table>);

#[derive(Default)]
struct Table {
    /// See [`Client::verify`].
    verify: bool,
    clients: Mutex<HashMap<String, Arc<Client>>>,
    changed: Notify,
}

/// Removes a client when its stream ends.
struct Connected {
    table: Arc<Table>,
    id: String,
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.table.lock().remove(&self.id);
    }
}

impl Table {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<Client>>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sessions {
    /// No clients yet. With `verify` no file of a client is taken for unchanged by its size and time.
    pub fn new(verify: bool) -> Sessions {
        Sessions(Arc::new(Table { verify, ..Table::default() }))
    }

    /// Takes a client in: its stream becomes a connection on which the daemon calls. The answer is the daemon's half.
    pub fn open(
        &self,
        request: Request<Streaming<BytesMessage>>,
    ) -> Result<ReceiverStream<Result<BytesMessage, Status>>, Status> {
        let text = |name: &str| value(request.metadata(), name);
        let id = text("x-docker-expose-session-uuid");
        if id.is_empty() {
            return Err(Status::invalid_argument("a session without x-docker-expose-session-uuid"));
        }
        let shared_key = text("x-docker-expose-session-sharedkey");
        let nearby = nearby::Nearby::of(&text(nearby::HEADER), request.extensions());
        let methods = request.metadata().get_all("x-docker-expose-session-grpc-method");
        let methods = methods.iter().filter_map(|m| m.to_str().ok()).map(str::to_lowercase).collect();
        let mut clients = self.0.lock();
        if clients.contains_key(&id) {
            return Err(Status::already_exists(format!("there is a session {id} already")));
        }
        let connected = Connected { table: self.0.clone(), id: id.clone() };
        let (care, given_up) = (Care::of(&text(OWN_PATIENCE)), CancellationToken::new());
        let (channel, outgoing) = tunnel::open(request.into_inner(), given_up.clone(), connected);
        let (verify, settled) = (self.0.verify, SetOnce::new());
        let client = Client { shared_key, verify, nearby, methods, channel: channel.clone(), settled };
        clients.insert(id.clone(), Arc::new(client));
        drop(clients);
        tokio::spawn(watch(Arc::downgrade(&self.0), id, channel, care, given_up));
        self.0.changed.notify_waiters();
        Ok(outgoing)
    }

    /// The client of a session that is there now.
    pub fn present(&self, id: &str) -> Option<Arc<Client>> {
        self.0.lock().get(id).cloned()
    }

    /// The client of a session; waits a while for one that is not there yet.
    pub async fn find(&self, id: &str) -> Result<Arc<Client>, Status> {
        let waiting = async {
            loop {
                let changed = self.0.changed.notified();
                if let Some(client) = self.0.lock().get(id) {
                    return client.clone();
                }
                changed.await;
            }
        };
        let found = tokio::time::timeout(WAIT, waiting).await;
        found.map_err(|_| Status::not_found(format!("there is no session {id}: the client that had it is gone")))
    }
}

/// Asks the client for its health now and then, and gives it up when it does not answer: a build that waits for it then
/// fails. The first question opens the connection: a client expects one even when nothing is asked of it.
async fn watch(table: Weak<Table>, id: String, channel: Channel, care: Care, given_up: CancellationToken) {
    let mut health = HealthClient::new(channel);
    let mut failures = 0;
    while failures < care.failures {
        let asked = tokio::time::timeout(care.patience, health.check(HealthCheckRequest::default())).await;
        let lives = match asked {
            Ok(Ok(_)) => true,
            // One that has no such service answers as well.
            Ok(Err(status)) => status.code() == Code::Unimplemented,
            Err(_late) => false,
        };
        failures = if lives { 0 } else { failures + 1 };
        if let Some(client) = table.upgrade().and_then(|table| table.lock().get(&id).cloned()) {
            let _first = client.settled.set(());
        }
        tokio::time::sleep(care.pause).await;
        let known = table.upgrade().is_some_and(|table| table.lock().contains_key(&id));
        if !known {
            return;
        }
    }
    given_up.cancel();
    if let Some(table) = table.upgrade() {
        table.lock().remove(&id);
    }
}

/// A metadata value as text, empty when there is none.
pub fn value(metadata: &MetadataMap, name: &str) -> String {
    metadata.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned()
}
