//! Somewhere to send requests, and the connections to it.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use http::uri::Authority;
use tokio::sync::{Notify, oneshot};
use tokio::time::{sleep, timeout};

use crate::address::{Address, Io};
use crate::clock::epoch_ms;
use crate::lock::lock;
use crate::poll::either;
use crate::settings::{
    CONNECTION_WINDOW, MAX_FRAME_SIZE, MAX_RESET_STREAMS, MAX_UPSTREAM_CONNECTIONS, SEND_BUFFER, STREAM_WINDOW,
    Settings,
};

/// An endpoint that could not be connected to is the last choice for so long.
const DOWN_MS: u64 = 1_000;

/// A server that is just restarting its listener gets one more try at once.
const RECONNECT_AFTER: Duration = Duration::from_millis(10);

/// Header blocks of answers may be larger than those of requests: status details lie in them.
const MAX_RESPONSE_METADATA: u32 = 256 << 10;

/// What h2 says of the number of streams until the other side has said it; no side can say this.
const NOT_SAID: usize = usize::MAX - 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndpointKind {
    Runtime,
    Peer,
    /// The gRPC server of this process, for management calls.
    Control,
    /// One that Python itself calls.
    Server,
}

/// How connections to an endpoint are made and kept.
pub struct Manner {
    pub shards: usize,
    pub connect_timeout: Duration,
    /// Time between two pings; None for none.
    pub ping_interval: Option<Duration>,
    /// In place of what the address says.
    pub authority: Option<Authority>,
}

impl Manner {
    /// As the settings of a data plane have it.
    pub fn of(kind: EndpointKind, settings: &Settings) -> Manner {
        Manner {
            shards: settings.shards,
            connect_timeout: settings.connect_timeout,
            // Only peers are pinged: gRPC servers end connections that ping more often than every five minutes, and
            // a runtime is on this machine, where the kernel tells of its death.
            ping_interval: (kind == EndpointKind::Peer).then_some(settings.keepalive_interval),
            authority: None,
        }
    }
}

pub struct Endpoint {
    pub id: u32,
    pub kind: EndpointKind,
    pub name: String,
    pub address: Address,
    pub authority: Authority,
    removed: AtomicBool,
    down_until_ms: AtomicU64,
    connect_timeout: Duration,
    ping_interval: Option<Duration>,
    /// One per shard, so that a request never changes threads.
    pools: Box<[Pool]>,
}

#[derive(Default)]
struct Pool {
    state: Mutex<PoolState>,
    /// Told when a stream ends while requests wait for one.
    freed: Notify,
    waiting: AtomicUsize,
}

#[derive(Default)]
struct PoolState {
    connections: Vec<Arc<Connection>>,
    /// Those who wait for the connection that is being made.
    dialing: Option<Vec<oneshot::Sender<Result<(), String>>>>,
}

struct Connection {
    sender: Mutex<SendRequest<Bytes>>,
    active: AtomicUsize,
}

/// No connection could be made: the request was certainly not sent.
#[derive(Debug)]
pub struct Unreachable(pub String);

impl Endpoint {
    pub fn new(id: u32, kind: EndpointKind, name: &str, address: Address, manner: Manner) -> Arc<Endpoint> {
        let authority = manner.authority.unwrap_or_else(|| {
            Authority::try_from(address.authority()).unwrap_or_else(|_| Authority::from_static("localhost"))
        });
        Arc::new(Endpoint {
            id,
            kind,
            name: name.to_owned(),
            address,
            authority,
            removed: AtomicBool::new(false),
            down_until_ms: AtomicU64::new(0),
            connect_timeout: manner.connect_timeout,
            ping_interval: manner.ping_interval,
            pools: (0..manner.shards).map(|_| Pool::default()).collect(),
        })
    }

    pub fn is_removed(&self) -> bool {
        self.removed.load(Ordering::Relaxed)
    }

    pub fn is_down(&self, now_ms: u64) -> bool {
        self.down_until_ms.load(Ordering::Relaxed) > now_ms
    }

    /// No new requests; connections end with their last stream.
    pub fn remove(&self) {
        self.removed.store(true, Ordering::Relaxed);
        for pool in &self.pools {
            let connections = std::mem::take(&mut lock(&pool.state).connections);
            drop(connections);
            pool.freed.notify_waiters();
        }
    }

    /// Connections of all shards.
    pub fn connections(&self) -> usize {
        self.pools.iter().map(|pool| lock(&pool.state).connections.len()).sum()
    }

    /// A stream's place on one of the shard's connections, if there is one free.
    pub fn try_acquire(self: &Arc<Self>, shard: usize) -> Option<Upstream> {
        let connection = lock(&self.pools[shard].state).pick()?;
        Some(Upstream::new(self, shard, connection))
    }

    /// A stream's place on one of the shard's connections, made or waited for if need be.
    pub async fn acquire(self: &Arc<Self>, shard: usize) -> Result<Upstream, Unreachable> {
        let pool = &self.pools[shard];
        loop {
            if self.is_removed() {
                return Err(Unreachable(format!("{} ({}) was removed", self.name, self.address)));
            }
            // Registered before looking, so that a stream that ends in between is not missed.
            let mut freed = std::pin::pin!(pool.freed.notified());
            let connected = {
                let mut state = lock(&pool.state);
                if let Some(connection) = state.pick() {
                    drop(state);
                    return Ok(Upstream::new(self, shard, connection));
                }
                if state.dialing.is_some() || state.connections.len() < MAX_UPSTREAM_CONNECTIONS {
                    let (sender, connected) = oneshot::channel();
                    match &mut state.dialing {
                        Some(waiting) => waiting.push(sender),
                        None => {
                            state.dialing = Some(vec![sender]);
                            tokio::spawn(Arc::clone(self).dial(shard));
                        }
                    }
                    Some(connected)
                } else {
                    freed.as_mut().enable();
                    pool.waiting.fetch_add(1, Ordering::Relaxed);
                    None
                }
            };
            match connected {
                Some(connected) => match connected.await {
                    Ok(Ok(())) => {}
                    // One more connection cannot be had, but there are others to wait for.
                    Ok(Err(_)) if !lock(&pool.state).connections.is_empty() => sleep(RECONNECT_AFTER).await,
                    Ok(Err(why)) => return Err(Unreachable(why)),
                    Err(_) => return Err(Unreachable("the data plane is being closed".to_owned())),
                },
                None => {
                    let waiting = Waiting(&pool.waiting);
                    freed.await;
                    drop(waiting);
                }
            }
        }
    }

    async fn dial(self: Arc<Self>, shard: usize) {
        let result = match timeout(self.connect_timeout, self.connect_twice()).await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(why)) => Err(why),
            Err(_) => Err(format!("no connection within {} ms", self.connect_timeout.as_millis())),
        };
        let down_until = if result.is_ok() { 0 } else { epoch_ms() + DOWN_MS };
        self.down_until_ms.store(down_until, Ordering::Relaxed);
        let result = result.map_err(|why| format!("{} ({}): {why}", self.name, self.address));

        let mut state = lock(&self.pools[shard].state);
        let told = result.map(|(sender, connection)| {
            let entry = Arc::new(Connection { sender: Mutex::new(sender), active: AtomicUsize::new(0) });
            if !self.is_removed() {
                state.connections.push(Arc::clone(&entry));
            }
            tokio::spawn(Arc::clone(&self).drive(shard, entry, connection));
        });
        let waiting = state.dialing.take().unwrap_or_default();
        drop(state);
        for sender in waiting {
            // One who has just given up need not know.
            let _ = sender.send(told.clone());
        }
    }

    async fn connect_twice(&self) -> Result<Handshaken, String> {
        match self.connect().await {
            Ok(connection) => Ok(connection),
            Err(_) => {
                sleep(RECONNECT_AFTER).await;
                self.connect().await
            }
        }
    }

    /// Connects and waits for the other side's settings: only then is somebody there, and known how many streams it
    /// takes.
    async fn connect(&self) -> Result<Handshaken, String> {
        let io = self.address.connect().await.map_err(|error| error.to_string())?;
        let (sender, mut connection) = h2::client::Builder::new()
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(MAX_FRAME_SIZE)
            .max_header_list_size(MAX_RESPONSE_METADATA)
            .initial_max_send_streams(NOT_SAID)
            .max_concurrent_reset_streams(MAX_RESET_STREAMS)
            .max_local_error_reset_streams(None)
            .max_send_buffer_size(SEND_BUFFER)
            .enable_push(false)
            .handshake(io)
            .await
            .map_err(|error| error.to_string())?;
        poll_fn(|cx| match Pin::new(&mut connection).poll(cx) {
            Poll::Ready(Ok(())) => Poll::Ready(Err("it closed the connection".to_owned())),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error.to_string())),
            Poll::Pending if sender.current_max_send_streams() == NOT_SAID => Poll::Pending,
            Poll::Pending => Poll::Ready(Ok(())),
        })
        .await?;
        Ok((sender, connection))
    }

    /// Runs a connection until it ends.
    async fn drive(self: Arc<Self>, shard: usize, entry: Arc<Connection>, mut connection: h2::client::Connection<Io>) {
        let pings = self.ping_interval.and_then(|interval| connection.ping_pong().map(|pings| (pings, interval)));
        let weak = Arc::downgrade(&entry);
        drop(entry);
        match pings {
            // How it ended, its streams know; here it only ends.
            Some((pings, interval)) => drop(either(connection, keep_alive(pings, interval)).await),
            None => drop(connection.await),
        }
        if let Some(entry) = weak.upgrade() {
            self.forget(shard, &entry);
        }
    }

    /// No new streams on this connection.
    fn forget(&self, shard: usize, connection: &Arc<Connection>) {
        let pool = &self.pools[shard];
        lock(&pool.state).connections.retain(|other| !Arc::ptr_eq(other, connection));
        if pool.waiting.load(Ordering::Relaxed) > 0 {
            pool.freed.notify_waiters();
        }
    }
}

type Handshaken = (SendRequest<Bytes>, h2::client::Connection<Io>);

/// Ends when a ping was not answered within the time between two.
async fn keep_alive(mut pings: h2::PingPong, interval: Duration) {
    loop {
        sleep(interval).await;
        if !matches!(timeout(interval, pings.ping(h2::Ping::opaque())).await, Ok(Ok(_))) {
            return;
        }
    }
}

impl PoolState {
    /// The first connection where the other side takes one more stream: fewer connections mean fewer writes.
    fn pick(&self) -> Option<Arc<Connection>> {
        let has_room = |connection: &&Arc<Connection>| {
            connection.active.load(Ordering::Relaxed) < lock(&connection.sender).current_max_send_streams()
        };
        let connection = self.connections.iter().find(has_room)?;
        connection.active.fetch_add(1, Ordering::Relaxed);
        Some(Arc::clone(connection))
    }
}

struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A stream's place on a connection, given back when dropped.
pub struct Upstream {
    endpoint: Arc<Endpoint>,
    shard: usize,
    connection: Arc<Connection>,
}

impl Upstream {
    /// The place in the connection's count was taken by `pick`.
    fn new(endpoint: &Arc<Endpoint>, shard: usize, connection: Arc<Connection>) -> Upstream {
        Upstream { endpoint: Arc::clone(endpoint), shard, connection }
    }

    pub fn sender(&self) -> SendRequest<Bytes> {
        lock(&self.connection.sender).clone()
    }

    /// The other side takes no more streams here.
    pub fn retire(&self) {
        self.endpoint.forget(self.shard, &self.connection);
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.connection.active.fetch_sub(1, Ordering::Relaxed);
        let pool = &self.endpoint.pools[self.shard];
        if pool.waiting.load(Ordering::Relaxed) > 0 {
            pool.freed.notify_one();
        }
    }
}
