//! Limits and timings of one data plane.

use std::time::Duration;

/// What the constructor of `DataPlane` was given.
#[derive(Clone, Debug)]
pub struct Settings {
    pub shards: usize,
    pub max_message_bytes: usize,
    pub max_metadata_bytes: usize,
    pub max_retained_bytes: usize,
    /// Of messages for those who process payloads, of all calls together.
    pub max_payload_bytes: usize,
    pub max_hops: u32,
    /// Models of one request that are asked at the same time.
    pub multi_parallelism: usize,
    pub connect_timeout: Duration,
    pub keepalive_interval: Duration,
    /// Zero: connections live as long as both sides want.
    pub max_connection_age: Duration,
    /// Zero: requests under way on an old connection may take as long as they need.
    pub max_connection_age_grace: Duration,
    pub per_model_metrics: bool,
    pub max_model_series: usize,
    pub model_series_idle: Duration,
}

/// A stream's receive window. It covers a typical tensor (600 KiB) without a round trip, and bounds what one
/// stalled reader holds.
pub const STREAM_WINDOW: u32 = 1 << 20;

/// A connection's receive window: as large as HTTP/2 allows, because models share connections and a stalled
/// stream must not hold up the others.
pub const CONNECTION_WINDOW: u32 = (1 << 31) - 1;

/// Fewer, larger DATA frames save a third to a half of the CPU for large bodies against the default of 16 KiB.
pub const MAX_FRAME_SIZE: u32 = 64 << 10;

/// What one stream may have buffered for sending.
pub const SEND_BUFFER: usize = 256 << 10;

/// Streams that one connection may have open; clients and peers open further connections beyond it.
pub const MAX_CONCURRENT_STREAMS: u32 = 4096;

/// Streams reset by either side that are remembered or not yet accepted. A client that gives up on thousands of
/// requests at once is not an attacker; the default of 20 would end its connection.
pub const MAX_RESET_STREAMS: usize = 4096;

/// Connections that one shard opens to one endpoint at most; more only where the endpoint limits the streams of one.
pub const MAX_UPSTREAM_CONNECTIONS: usize = 32;

/// Requests that are with a shadow at the same time; more are not mirrored.
pub const MAX_SHADOWS: usize = 64;

/// Bytes of requests and answers that are kept to be compared; without room a request is not mirrored.
pub const MAX_SHADOW_BYTES: usize = 64 << 20;

/// What a shadow has for its answer, the time for loading it included.
pub const SHADOW_TIMEOUT: Duration = Duration::from_secs(60);
