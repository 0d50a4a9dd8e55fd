//! One thread with its own event loop: a single-threaded runtime costs half of what a multi-threaded one does here.
//!
//! A connection stays on the shard that it was given to, and so do its requests.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self as mpsc_of_threads, RecvTimeoutError};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::time::sleep;

use crate::address::{Io, Listening};
use crate::connection::{CountedConnection, Side, serve_connection};
use crate::plane::{Drain, Plane};
use crate::poll::either;
use crate::turns;

/// How often shards look after their memory.
const UPKEEP: Duration = Duration::from_secs(5);

/// After this pause a listener tries again where the process had no file descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

pub enum Command {
    Listen {
        listening: Listening,
        side: Side,
    },
    Serve {
        stream: Accepted,
        side: Side,
    },
    /// Look after memory.
    KeepUp,
    Stop,
}

/// A connection on its way to its shard.
pub enum Accepted {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
}

impl Accepted {
    /// Makes it part of the current event loop.
    fn into_io(self) -> io::Result<Io> {
        match self {
            Accepted::Tcp(stream) => TcpStream::from_std(stream).and_then(Io::tcp),
            Accepted::Unix(stream) => UnixStream::from_std(stream).map(Io::Unix),
        }
    }
}

/// The way to a shard's thread.
pub type Inbox = mpsc::UnboundedSender<Command>;

/// Starts the thread that has shards look after their memory, until the sender is dropped.
///
/// A timer on their own event loops would be set and taken back by the kernel each time one of them waits for a request.
pub fn start_upkeep(inboxes: Vec<Inbox>) -> io::Result<(mpsc_of_threads::Sender<()>, std::thread::JoinHandle<()>)> {
    let (until, ended) = mpsc_of_threads::channel::<()>();
    let handle = std::thread::Builder::new().name("mesh-upkeep".to_owned()).spawn(move || {
        while ended.recv_timeout(UPKEEP) == Err(RecvTimeoutError::Timeout) {
            for inbox in &inboxes {
                // A shard that is being stopped has no more to look after.
                let _ = inbox.send(Command::KeepUp);
            }
        }
    })?;
    Ok((until, handle))
}

/// Starts a shard's thread.
pub fn start(
    plane: Arc<Plane>,
    index: usize,
    inboxes: Vec<Inbox>,
    commands: mpsc::UnboundedReceiver<Command>,
) -> io::Result<std::thread::JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name(format!("mesh-data-{index}")).spawn(move || {
        turns::ask_for_short_ones();
        runtime.block_on(run(plane, index, inboxes, commands));
        // Whatever still runs is dropped here, which resets its streams.
        runtime.shutdown_timeout(Duration::from_millis(100));
    })
}

async fn run(plane: Arc<Plane>, index: usize, inboxes: Vec<Inbox>, mut commands: mpsc::UnboundedReceiver<Command>) {
    let mut upkeep = Upkeep::default();
    loop {
        match commands.recv().await {
            Some(Command::Listen { listening, side }) => {
                tokio::spawn(accept(Arc::clone(&plane), listening, side, inboxes.clone()));
            }
            Some(Command::Serve { stream, side }) => {
                let counted = CountedConnection::new(&plane, index);
                if let Ok(io) = stream.into_io() {
                    tokio::spawn(serve_connection(counted, side, io));
                }
            }
            Some(Command::KeepUp) => upkeep.tick(&plane, index),
            Some(Command::Stop) | None => return,
        }
    }
}

#[derive(Default)]
struct Upkeep {
    requests: u64,
    purged: bool,
}

impl Upkeep {
    /// Gives memory back once a burst is over.
    fn tick(&mut self, plane: &Plane, index: usize) {
        let shard = &plane.shards[index];
        let requests = shard.counters.requests.load(Ordering::Relaxed);
        let quiet = requests - self.requests < 100;
        self.requests = requests;
        if quiet && !self.purged {
            crate::memory::purge();
        }
        self.purged = quiet;
    }
}

/// Accepts until the side is drained, giving each connection to the shard that has the fewest.
async fn accept(plane: Arc<Plane>, listening: Listening, side: Side, inboxes: Vec<Inbox>) {
    let mut drain = plane.drain.subscribe();
    let path = match &listening {
        Listening::Unix(_, path) => Some(path.clone()),
        Listening::Tcp(_) => None,
    };
    let drained = async {
        // The sender lives as long as the plane.
        let _ = drain.wait_for(|drain| side.is_drained(*drain)).await;
    };
    let accepting = async {
        match listening {
            Listening::Tcp(listener) => {
                let Ok(listener) = TcpListener::from_std(listener) else { return };
                loop {
                    let accepted = listener.accept().await.and_then(|(stream, _)| stream.into_std());
                    give(&plane, side, accepted.map(Accepted::Tcp), &inboxes).await;
                }
            }
            Listening::Unix(listener, _) => {
                let Ok(listener) = UnixListener::from_std(listener) else { return };
                loop {
                    let accepted = listener.accept().await.and_then(|(stream, _)| stream.into_std());
                    give(&plane, side, accepted.map(Accepted::Unix), &inboxes).await;
                }
            }
        }
    };
    either(drained, accepting).await;
    if let Some(path) = path {
        // Someone else may have removed it already.
        let _ = std::fs::remove_file(path);
    }
}

async fn give(plane: &Plane, side: Side, accepted: io::Result<Accepted>, inboxes: &[Inbox]) {
    match accepted {
        Ok(stream) => {
            let connections = |index: &usize| {
                let counters = &plane.shards[*index].counters;
                counters.connections.load(Ordering::Relaxed) + counters.assigned.load(Ordering::Relaxed)
            };
            let index = (0..inboxes.len()).min_by_key(connections).unwrap_or(0);
            plane.shards[index].counters.assigned.fetch_add(1, Ordering::Relaxed);
            // A shard that is being stopped takes no more.
            let _ = inboxes[index].send(Command::Serve { stream, side });
        }
        Err(_) => sleep(ACCEPT_PAUSE).await,
    }
}

impl Side {
    /// Whether this kind of listener is closed at that stage.
    pub fn is_drained(self, drain: Drain) -> bool {
        match self {
            Side::Clients => drain >= Drain::Clients,
            Side::Peers => drain >= Drain::Everything,
        }
    }
}
