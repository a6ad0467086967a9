//! Who makes the connection to a server, looks into doubts about it, and makes the next one.

use crate::redis::url::{Kind, RedisUrl};
use rand::RngExt as _;
use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::sentinel::{SentinelClient, SentinelClientBuilder, SentinelServerType};
use redis::{
    AsyncConnectionConfig, Client, ConnectionInfo, ErrorKind, PushInfo, PushKind, RedisError,
    TlsMode, Value,
};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, sleep, timeout};

/// How long one server may take until it can be spoken to, and to show that it still answers.
pub(super) const ANSWER_MAX: Duration = Duration::from_secs(1);
/// How long all sentinels may take together.
const FIND_MAX: Duration = Duration::from_secs(5);
/// How long to wait before connecting again: at first, and at most. Both with up to as much again, by chance.
const WAIT_MIN: Duration = Duration::from_millis(20);
const WAIT_MAX: Duration = Duration::from_millis(250);
/// A connection that held so long ends the row of failures.
const HELD_WELL: Duration = Duration::from_secs(5);
/// How long after a doubt was looked into the next one is.
const DOUBT_PAUSE: Duration = Duration::from_millis(100);
/// How many commands wait to be written.
const WRITES_MAX: usize = 1_024;

/// Whom to connect to.
pub(super) enum Target {
    /// One server.
    Server(Box<ConnectionInfo>),
    /// Whoever the sentinels name.
    Master(RedisUrl),
}

/// A connection to a server.
#[derive(Clone)]
pub(super) struct Connected {
    pub(super) connection: MultiplexedConnection,
    /// Which keys the server forgets when its memory is full, where that is any: `maxmemory-policy`.
    pub(super) evicts: Option<Arc<str>>,
}

/// Why a connection may have to be replaced.
#[derive(Debug)]
pub(super) enum Doubt {
    /// A command had no answer in time.
    Silent,
    /// It is of no use: it was closed, or leads to a server that takes no writes.
    Useless(String),
}

/// Keeps the connection to a server.
pub(super) struct Keeper {
    target: Target,
    publish: watch::Sender<Option<Connected>>,
    doubts: mpsc::Receiver<Doubt>,
    sentinels: Option<SentinelClient>,
    sentinel_login: SentinelLogin,
    /// Of the present connection: it was closed.
    closed: Arc<Notify>,
}

/// What the log says of a row of failures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Nothing,
    /// That a connection was made and didn't last.
    GivenUp,
    /// That none could be made.
    Unreachable,
}

/// As whom to speak to sentinels, which often know no users where the servers do: the one is tried after the other.
#[derive(Clone, Copy, Debug)]
enum SentinelLogin {
    AsServers,
    Nobody,
}

impl Target {
    /// The server, or the service, that this URL names.
    pub(super) fn of(url: &RedisUrl) -> Self {
        match (url.kind(), url.addresses().next()) {
            (Kind::Single | Kind::Cluster, Some((host, port))) => Self::server(url, host, port),
            // A URL names a host.
            (Kind::Sentinel { .. } | Kind::Single | Kind::Cluster, _) => Self::Master(url.clone()),
        }
    }

    /// This server, spoken to as the URL says.
    pub(super) fn server(url: &RedisUrl, host: String, port: u16) -> Self {
        Self::Server(Box::new(url.connection(host, port).set_tcp_settings(tcp())))
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Server(server) => server.addr().fmt(f),
            Self::Master(url) => url.fmt(f),
        }
    }
}

impl Keeper {
    pub(super) fn new(
        target: Target,
        publish: watch::Sender<Option<Connected>>,
        doubts: mpsc::Receiver<Doubt>,
    ) -> Self {
        Self {
            target,
            publish,
            doubts,
            sentinels: None,
            sentinel_login: SentinelLogin::AsServers,
            closed: Arc::new(Notify::new()),
        }
    }

    /// Connects for as long as somebody may ask. What happens again and again is told once.
    pub(super) async fn keep(mut self) {
        let (mut wait, mut told) = (WAIT_MIN, Told::Nothing);
        loop {
            match self.connect().await {
                Ok(connection) => {
                    if told != Told::GivenUp {
                        tracing::info!(redis = %self.target, "connected to Redis");
                    }
                    let evicts = eviction(&connection, &self.target).await;
                    let since = Instant::now();
                    let connected = Connected { connection: connection.clone(), evicts };
                    self.publish.send_replace(Some(connected));
                    let why = self.attend(connection).await;
                    self.publish.send_replace(None);
                    if since.elapsed() > HELD_WELL {
                        (wait, told) = (WAIT_MIN, Told::Nothing);
                    }
                    if told != Told::GivenUp {
                        tracing::warn!(redis = %self.target, %why, "the connection to Redis is given up");
                        told = Told::GivenUp;
                    }
                }
                Err(error) => {
                    if told != Told::Unreachable {
                        tracing::warn!(redis = %self.target, %error, "Redis can't be reached; trying again");
                        told = Told::Unreachable;
                    }
                }
            }
            let jitter = rand::rng().random_range(0.0..1.0);
            sleep(wait.mul_f64(1.0 + jitter)).await;
            wait = (wait * 2).min(WAIT_MAX);
        }
    }

    /// Waits until the connection has to be replaced; says why.
    async fn attend(&mut self, mut connection: MultiplexedConnection) -> String {
        loop {
            let doubt = tokio::select! {
                () = self.closed.notified() => return "it was closed".to_owned(),
                doubt = self.doubts.recv() => doubt,
            };
            match doubt {
                // Nobody is left who could ask, and this task ends with them.
                None => return "nobody uses it".to_owned(),
                Some(Doubt::Useless(why)) => return why,
                Some(Doubt::Silent) => {
                    let ping = redis::cmd("PING");
                    match timeout(ANSWER_MAX, ping.exec_async(&mut connection)).await {
                        Ok(Ok(())) => {}
                        Ok(Err(error)) => return error.to_string(),
                        Err(_) => return "it does not answer".to_owned(),
                    }
                }
            }
            tokio::select! {
                () = self.closed.notified() => return "it was closed".to_owned(),
                () = sleep(DOUBT_PAUSE) => {}
            }
        }
    }

    async fn connect(&mut self) -> Result<MultiplexedConnection, RedisError> {
        // Doubts about the last connection are none about the next.
        while self.doubts.try_recv().is_ok() {}
        self.closed = Arc::new(Notify::new());
        let url = match &self.target {
            Target::Server(server) => {
                let client = Client::open((**server).clone())?;
                return within(ANSWER_MAX, self.open(&client)).await;
            }
            Target::Master(url) => url.clone(),
        };
        let found = within(FIND_MAX, self.open_master(&url)).await;
        if let Err(error) = &found {
            self.sentinels = None;
            if is_about_login(error) {
                self.sentinel_login = match self.sentinel_login {
                    SentinelLogin::AsServers => SentinelLogin::Nobody,
                    SentinelLogin::Nobody => SentinelLogin::AsServers,
                };
            }
        }
        found
    }

    async fn open(&self, client: &Client) -> Result<MultiplexedConnection, RedisError> {
        let closed = Arc::clone(&self.closed);
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(ANSWER_MAX))
            // Each command has its own deadline.
            .set_response_timeout(None)
            .set_pipeline_buffer_size(WRITES_MAX)
            .set_push_sender(move |push: PushInfo| {
                if push.kind == PushKind::Disconnection {
                    closed.notify_one();
                }
                Ok::<_, std::convert::Infallible>(())
            });
        client.get_multiplexed_async_connection_with_config(&config).await
    }

    async fn open_master(&mut self, url: &RedisUrl) -> Result<MultiplexedConnection, RedisError> {
        let mut sentinels = match self.sentinels.take() {
            Some(sentinels) => sentinels,
            None => self.sentinels_of(url)?,
        };
        let master = sentinels.async_get_client().await?;
        self.sentinels = Some(sentinels);
        self.open(&master).await
    }

    fn sentinels_of(&self, url: &RedisUrl) -> Result<SentinelClient, RedisError> {
        let Kind::Sentinel { service } = url.kind() else {
            return Err((ErrorKind::InvalidClientConfig, "the URL names no service").into());
        };
        let login = url.login();
        let hosts: Vec<_> = url.connections().map(|host| host.addr().clone()).collect();
        let mut builder = SentinelClientBuilder::new(hosts, service, SentinelServerType::Master)?
            .set_client_to_redis_protocol(login.protocol())
            .set_client_to_redis_db(login.db())
            .set_client_to_redis_tcp_settings(tcp())
            .set_client_to_sentinel_tcp_settings(tcp());
        if url.is_tls() {
            builder = builder.set_client_to_redis_tls_mode(TlsMode::Secure);
        }
        if let Some(user) = login.username() {
            builder = builder.set_client_to_redis_username(user);
        }
        if let Some(password) = login.password() {
            builder = builder.set_client_to_redis_password(password);
        }
        if let SentinelLogin::AsServers = self.sentinel_login {
            if let Some(user) = login.username() {
                builder = builder.set_client_to_sentinel_username(user);
            }
            if let Some(password) = login.password() {
                builder = builder.set_client_to_sentinel_password(password);
            }
        }
        builder.build()
    }
}

/// Which keys the server evicts; a warning, if any: what is kept here is not to be forgotten. A server that tells nobody
/// its policy is not asked twice.
async fn eviction(connection: &MultiplexedConnection, target: &Target) -> Option<Arc<str>> {
    let mut command = redis::cmd("INFO");
    command.arg("memory");
    let told = timeout(ANSWER_MAX, command.query_async::<Value>(&mut connection.clone())).await;
    let Ok(Ok(told)) = told else { return None };
    let told = redis::from_redis_value::<String>(told).unwrap_or_default();
    let policy = told.lines().find_map(|line| line.strip_prefix("maxmemory_policy:"));
    let policy = policy.map(str::trim).filter(|policy| *policy != "noeviction")?;
    tracing::warn!(
        redis = %target,
        policy,
        "this Redis evicts keys when its memory is full: limits then forget what was used, and idempotency keys what was sent; set `maxmemory-policy noeviction`"
    );
    Some(policy.into())
}

async fn within<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, RedisError>>,
) -> Result<T, RedisError> {
    timeout(limit, work).await.unwrap_or_else(|_| {
        let late = std::io::Error::new(std::io::ErrorKind::TimedOut, "it did not answer in time");
        Err(late.into())
    })
}

fn tcp() -> TcpSettings {
    TcpSettings::default().set_nodelay(true)
}

/// Whether another login might help.
fn is_about_login(error: &RedisError) -> bool {
    error.kind() == ErrorKind::AuthenticationFailed
        || matches!(error.code(), Some("NOAUTH" | "WRONGPASS" | "NOPERM"))
}
