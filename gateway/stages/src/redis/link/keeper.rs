//! Who makes a link's connection, looks into doubts about it, and makes the next one.

use super::{Connection, Doubt};
use crate::redis::url::{Kind, RedisUrl};
use rand::RngExt as _;
use redis::cluster::ClusterClientBuilder;
use redis::cluster_async::ClusterConnection;
use redis::io::tcp::TcpSettings;
use redis::sentinel::{SentinelClient, SentinelClientBuilder, SentinelServerType};
use redis::{
    AsyncConnectionConfig, Client, ErrorKind, PushInfo, PushKind, RedisError, TlsMode, Value,
};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, sleep, timeout};

/// How long one server may take until it can be spoken to, and to show that it still answers.
const ANSWER_MAX: Duration = Duration::from_secs(1);
/// How long all sentinels, or all nodes of a cluster, may take together.
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
/// How often a cluster's client follows a slot to where it moved.
const REDIRECTS_MAX: u32 = 3;

/// Keeps a link's connection.
pub(super) struct Keeper {
    url: RedisUrl,
    publish: watch::Sender<Option<Connection>>,
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

impl Keeper {
    pub(super) fn new(
        url: RedisUrl,
        publish: watch::Sender<Option<Connection>>,
        doubts: mpsc::Receiver<Doubt>,
    ) -> Self {
        Self {
            url,
            publish,
            doubts,
            sentinels: None,
            sentinel_login: SentinelLogin::AsServers,
            closed: Arc::new(Notify::new()),
        }
    }

    /// Connects for as long as there is a link. What happens again and again is told once.
    pub(super) async fn keep(mut self) {
        let (mut wait, mut told) = (WAIT_MIN, Told::Nothing);
        loop {
            match self.connect().await {
                Ok(connection) => {
                    if told != Told::GivenUp {
                        tracing::info!(redis = %self.url, "connected to Redis");
                    }
                    warn_of_eviction(&connection, &self.url).await;
                    let since = Instant::now();
                    self.publish.send_replace(Some(connection.clone()));
                    let why = self.attend(connection).await;
                    // A cluster's other nodes are well: the old connections serve until there are new ones.
                    if *self.url.kind() != Kind::Cluster {
                        self.publish.send_replace(None);
                    }
                    if since.elapsed() > HELD_WELL {
                        (wait, told) = (WAIT_MIN, Told::Nothing);
                    }
                    if told != Told::GivenUp {
                        tracing::warn!(redis = %self.url, %why, "the connection to Redis is given up");
                        told = Told::GivenUp;
                    }
                }
                Err(error) => {
                    if told != Told::Unreachable {
                        tracing::warn!(redis = %self.url, %error, "Redis can't be reached; trying again");
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
    async fn attend(&mut self, connection: Connection) -> String {
        loop {
            let doubt = tokio::select! {
                () = self.closed.notified() => return "it was closed".to_owned(),
                doubt = self.doubts.recv() => doubt,
            };
            match doubt {
                // The last link is gone, and with it this task.
                None => return "nobody uses it".to_owned(),
                Some(Doubt::Useless(why)) if *self.url.kind() != Kind::Cluster => return why,
                // A cluster's client finds the way by itself, where it is told.
                Some(Doubt::Useless(_)) => {}
                Some(Doubt::Silent(key)) => {
                    let answer = timeout(ANSWER_MAX, probe(&connection, &key)).await;
                    match answer {
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
            // What was doubted before that is answered.
            while self.doubts.try_recv().is_ok_and(|doubt| matches!(doubt, Doubt::Silent(_))) {}
        }
    }

    async fn connect(&mut self) -> Result<Connection, RedisError> {
        // Doubts about the last connection are none about the next.
        while self.doubts.try_recv().is_ok() {}
        self.closed = Arc::new(Notify::new());
        match self.url.kind().clone() {
            Kind::Single => {
                let first = self.url.connections(&tcp()).into_iter().next();
                let client = Client::open(first.ok_or_else(nowhere)?)?;
                within(ANSWER_MAX, self.open(&client)).await
            }
            Kind::Sentinel { service } => {
                let found = within(FIND_MAX, self.open_master(&service)).await;
                if found.is_err() {
                    self.sentinels = None;
                    self.sentinel_login = match self.sentinel_login {
                        SentinelLogin::AsServers => SentinelLogin::Nobody,
                        SentinelLogin::Nobody => SentinelLogin::AsServers,
                    };
                }
                found
            }
            Kind::Cluster => within(FIND_MAX, self.open_cluster()).await,
        }
    }

    async fn open(&self, client: &Client) -> Result<Connection, RedisError> {
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
        let connection = client.get_multiplexed_async_connection_with_config(&config).await?;
        Ok(Connection::Single(connection))
    }

    async fn open_master(&mut self, service: &str) -> Result<Connection, RedisError> {
        let mut sentinels = match self.sentinels.take() {
            Some(sentinels) => sentinels,
            None => self.sentinels_of(service)?,
        };
        let master = sentinels.async_get_client().await?;
        self.sentinels = Some(sentinels);
        self.open(&master).await
    }

    fn sentinels_of(&self, service: &str) -> Result<SentinelClient, RedisError> {
        let login = self.url.login();
        let hosts = self.url.hosts().to_vec();
        let mut builder = SentinelClientBuilder::new(hosts, service, SentinelServerType::Master)?
            .set_client_to_redis_protocol(login.protocol())
            .set_client_to_redis_db(login.db())
            .set_client_to_redis_tcp_settings(tcp())
            .set_client_to_sentinel_tcp_settings(tcp());
        if self.url.is_tls() {
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

    async fn open_cluster(&self) -> Result<Connection, RedisError> {
        let login = self.url.login();
        let mut builder = ClusterClientBuilder::new(self.url.connections(&tcp()))
            .use_protocol(login.protocol())
            .connection_timeout(ANSWER_MAX)
            .response_timeout(ANSWER_MAX)
            .tcp_settings(tcp())
            .retries(REDIRECTS_MAX)
            .min_retry_wait(1)
            .max_retry_wait(8);
        if let Some(user) = login.username() {
            builder = builder.username(user);
        }
        if let Some(password) = login.password() {
            builder = builder.password(password);
        }
        let connection: ClusterConnection = builder.build()?.get_async_connection().await?;
        Ok(Connection::Cluster(connection))
    }
}

/// Whether who answers for this key answers at all.
async fn probe(connection: &Connection, key: &str) -> Result<(), RedisError> {
    match connection {
        Connection::Single(one) => redis::cmd("PING").exec_async(&mut one.clone()).await,
        Connection::Cluster(all) => {
            redis::cmd("EXISTS").arg(key).exec_async(&mut all.clone()).await
        }
    }
}

/// Evicted counters forget what was used. A server that tells nobody its policy is not asked twice.
async fn warn_of_eviction(connection: &Connection, url: &RedisUrl) {
    let Connection::Single(one) = connection else { return };
    let mut command = redis::cmd("INFO");
    command.arg("memory");
    let told = timeout(ANSWER_MAX, command.query_async::<Value>(&mut one.clone())).await;
    let Ok(Ok(told)) = told else { return };
    let told = redis::from_redis_value::<String>(told).unwrap_or_default();
    let policy = told.lines().find_map(|line| line.strip_prefix("maxmemory_policy:"));
    if let Some(policy) = policy.map(str::trim)
        && policy != "noeviction"
    {
        tracing::warn!(
            redis = %url,
            policy,
            "this Redis evicts keys when its memory is full, and limits then forget what was used; set `maxmemory-policy noeviction`"
        );
    }
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

fn nowhere() -> RedisError {
    (ErrorKind::InvalidClientConfig, "the URL names no host").into()
}
