//! One client's or peer's connection.

use std::future::{Future, poll_fn};
use std::hash::{BuildHasher, Hasher};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use tokio::time::{Sleep, sleep, timeout};

use crate::address::Io;
use crate::plane::Plane;
use crate::settings::{
    CONNECTION_WINDOW, MAX_CONCURRENT_STREAMS, MAX_FRAME_SIZE, MAX_RESET_STREAMS, SEND_BUFFER, STREAM_WINDOW, Settings,
};
use crate::stream::serve;

/// Time for the first bytes of HTTP/2.
const HANDSHAKE: Duration = Duration::from_secs(20);

/// Who connects to a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Clients,
    Peers,
}

/// Serves a connection until it ends. An error ends it and nothing else.
pub async fn serve_connection(counted: CountedConnection, side: Side, io: Io) {
    let CountedConnection { plane, shard } = &counted;
    let shard = *shard;
    let handshake = server(&plane.settings).handshake(io);
    let Ok(Ok(mut connection)) = timeout(HANDSHAKE, handshake).await else { return };

    let mut drain = plane.drain.subscribe();
    let mut drained = pin!(async {
        // The sender lives as long as the plane.
        let _ = drain.wait_for(|drain| side.is_drained(*drain)).await;
    });
    // No timer where there is no end: the kernel sets and takes back the next one each time it waits for a request.
    let mut aged = lifetime(&plane.settings).map(|age| Box::pin(sleep(age)));
    let mut over: Option<Pin<Box<Sleep>>> = None;
    let mut going = false;
    poll_fn(|cx| {
        loop {
            match connection.poll_accept(cx) {
                Poll::Ready(Some(Ok((request, respond)))) => {
                    if let Some(serving) = serve(plane, shard, side == Side::Peers, request, respond) {
                        tokio::spawn(serving);
                    }
                }
                Poll::Ready(Some(Err(_)) | None) => return Poll::Ready(()),
                Poll::Pending => {
                    if going {
                        return over.as_mut().map_or(Poll::Pending, |over| over.as_mut().poll(cx));
                    }
                    let old = aged.as_mut().is_some_and(|aged| aged.as_mut().poll(cx).is_ready());
                    if !old && drained.as_mut().poll(cx).is_pending() {
                        return Poll::Pending;
                    }
                    going = true;
                    connection.graceful_shutdown();
                    let grace = plane.settings.max_connection_age_grace;
                    if old && !grace.is_zero() {
                        over = Some(Box::pin(sleep(grace)));
                    }
                }
            }
        }
    })
    .await;
}

/// A connection in the count of its shard.
pub struct CountedConnection {
    plane: Arc<Plane>,
    shard: usize,
}

impl CountedConnection {
    /// Counts a connection that the shard was assigned.
    pub fn new(plane: &Arc<Plane>, shard: usize) -> CountedConnection {
        let counters = &plane.shards[shard].counters;
        counters.connections.fetch_add(1, Ordering::Relaxed);
        counters.accepted.fetch_add(1, Ordering::Relaxed);
        counters.assigned.fetch_sub(1, Ordering::Relaxed);
        CountedConnection { plane: Arc::clone(plane), shard }
    }
}

impl Drop for CountedConnection {
    fn drop(&mut self) {
        self.plane.shards[self.shard].counters.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

fn server(settings: &Settings) -> h2::server::Builder {
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(MAX_FRAME_SIZE)
        .max_concurrent_streams(MAX_CONCURRENT_STREAMS)
        // Beyond the limit of gRPC, which is answered with a status; this one ends in a bare 431.
        .max_header_list_size(
            u32::try_from(settings.max_metadata_bytes.saturating_mul(4)).unwrap_or(u32::MAX).max(64 << 10),
        )
        .max_concurrent_reset_streams(MAX_RESET_STREAMS)
        .max_pending_accept_reset_streams(MAX_RESET_STREAMS)
        .max_local_error_reset_streams(Some(MAX_RESET_STREAMS))
        .max_send_buffer_size(SEND_BUFFER);
    builder
}

/// The age at which a connection is to end, spread by a tenth so that not all clients reconnect at once.
fn lifetime(settings: &Settings) -> Option<Duration> {
    if settings.max_connection_age.is_zero() {
        return None;
    }
    let random = std::hash::RandomState::new().build_hasher().finish();
    Some(settings.max_connection_age.mul_f64(0.9 + 0.2 * (random as f64 / u64::MAX as f64)))
}
