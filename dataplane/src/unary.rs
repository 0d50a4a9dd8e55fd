//! One unary call of another server, from its message to its answer.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use h2::RecvStream;
use http::uri::{PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, Version, header};
use tokio::time::{Instant, sleep, timeout_at};

use crate::compression::decompress;
use crate::endpoint::{Endpoint, Unreachable, Upstream};
use crate::exchange::is_unprocessed;
use crate::frames::{PREFIX, framed, message_length};
use crate::grpc::{CONTENT_TYPE, Code, GRPC_ENCODING, GRPC_STATUS, GRPC_TIMEOUT, Status, message_of};
use crate::journey::{MAX_REPLAYS, REPLAY_AFTER};
use crate::timeout;

/// Answers to Python's own calls may be large, such as pages of a registry.
pub const MAX_ANSWER_BYTES: usize = 1 << 30;

/// A call to be made.
pub struct Order {
    pub server: Arc<Endpoint>,
    pub path: PathAndQuery,
    pub metadata: HeaderMap,
    pub message: Bytes,
    pub deadline: Option<Instant>,
}

/// Why an attempt has no answer.
enum Failed {
    /// The server certainly did not process it. Where `is_over`, the connection takes no more.
    Unprocessed {
        why: String,
        is_over: bool,
    },
    Ended(Status),
}

impl From<h2::Error> for Failed {
    fn from(error: h2::Error) -> Failed {
        if is_unprocessed(&error) {
            return Failed::Unprocessed { why: error.to_string(), is_over: error.is_go_away() };
        }
        Failed::Ended(lost(&error))
    }
}

/// The status of a stream that broke.
pub fn lost(error: &h2::Error) -> Status {
    let code = match error.reason() {
        Some(reason) if error.is_reset() && error.is_remote() => Code::of_reset(reason),
        _ => Code::UNAVAILABLE,
    };
    Status::new(code, format!("the connection was lost or the stream reset: {error}"))
}

/// Makes a call, and gives the message of its answer or the status that it ended with.
pub async fn answer(order: Order) -> Result<Bytes, Status> {
    let mut upstream = None;
    let Some(deadline) = order.deadline else { return call(&order, &mut upstream).await };
    match timeout_at(deadline, call(&order, &mut upstream)).await {
        Ok(result) => result,
        Err(_) => {
            // The other machine may be gone without a word: the next call is to find that out by connecting anew.
            if let Some(upstream) = upstream {
                upstream.retire();
            }
            Err(Status::expired())
        }
    }
}

async fn call(order: &Order, upstream: &mut Option<Upstream>) -> Result<Bytes, Status> {
    let mut replays = 0;
    loop {
        let place = match order.server.try_acquire(0) {
            Some(place) => place,
            None => order
                .server
                .acquire(0)
                .await
                .map_err(|Unreachable(why)| Status::new(Code::UNAVAILABLE, format!("failed to connect: {why}")))?,
        };
        let place = upstream.insert(place);
        let (why, is_over) = match attempt(order, place).await {
            Ok(message) => return Ok(message),
            Err(Failed::Ended(status)) => return Err(status),
            Err(Failed::Unprocessed { why, is_over }) => (why, is_over),
        };
        if is_over {
            place.retire();
        }
        replays += 1;
        if replays > MAX_REPLAYS {
            return Err(Status::new(Code::UNAVAILABLE, why));
        }
        if !is_over {
            sleep(REPLAY_AFTER).await;
        }
    }
}

async fn attempt(order: &Order, place: &Upstream) -> Result<Bytes, Failed> {
    let over = |error: h2::Error| Failed::Unprocessed { why: error.to_string(), is_over: true };
    let (response, mut send) = place.sender().send_request(head(order), false).map_err(over)?;
    // If it fails, the response tells why. HTTP/2 keeps what the server does not take at once.
    let _ = send.send_data(framed(&order.message), true);
    let (head, mut recv) = response.await?.into_parts();
    if recv.is_end_stream() {
        return Err(Failed::Ended(status_of(head.status, &head.headers)));
    }
    let body = collect(&mut recv).await?;
    let trailers = recv.trailers().await?.unwrap_or_default();
    let status = if trailers.contains_key(GRPC_STATUS) { &trailers } else { &head.headers };
    if Code::of(status) != Code::OK {
        return Err(Failed::Ended(status_of(head.status, status)));
    }
    let encoding = head.headers.get(GRPC_ENCODING).and_then(|value| value.to_str().ok()).unwrap_or("identity");
    only_message(body, encoding).map_err(Failed::Ended)
}

/// The head of a call.
pub fn head(order: &Order) -> Request<()> {
    let mut headers = order.metadata.clone();
    headers.insert(header::CONTENT_TYPE, CONTENT_TYPE);
    headers.insert(header::TE, HeaderValue::from_static("trailers"));
    if let Some(deadline) = order.deadline {
        headers.insert(GRPC_TIMEOUT, timeout::encode(deadline.saturating_duration_since(Instant::now())));
    }
    let mut uri = http::uri::Parts::default();
    uri.scheme = Some(Scheme::HTTP);
    uri.authority = Some(order.server.authority.clone());
    uri.path_and_query = Some(order.path.clone());
    let mut request = Request::new(());
    *request.method_mut() = Method::POST;
    *request.version_mut() = Version::HTTP_2;
    // All three parts are there, which is all that can fail.
    *request.uri_mut() = Uri::from_parts(uri).unwrap_or_default();
    *request.headers_mut() = headers;
    request
}

async fn collect(recv: &mut RecvStream) -> Result<Bytes, Failed> {
    let mut first = Bytes::new();
    let mut whole = BytesMut::new();
    while let Some(chunk) = recv.data().await {
        let chunk = chunk?;
        // It fails only on a stream that is gone, which the next read tells.
        let _ = recv.flow_control().release_capacity(chunk.len());
        if first.is_empty() {
            first = chunk;
            continue;
        }
        if whole.is_empty() {
            let announced = first.first_chunk::<PREFIX>().map_or(0, message_length);
            whole.reserve((PREFIX + announced).min(MAX_ANSWER_BYTES).max(first.len() + chunk.len()));
            whole.extend_from_slice(&first);
        }
        if whole.len() + chunk.len() > MAX_ANSWER_BYTES {
            let message = format!("the answer is larger than {MAX_ANSWER_BYTES} bytes");
            return Err(Failed::Ended(Status::new(Code::RESOURCE_EXHAUSTED, message)));
        }
        whole.extend_from_slice(&chunk);
    }
    Ok(if whole.is_empty() { first } else { whole.freeze() })
}

fn only_message(mut bytes: Bytes, encoding: &str) -> Result<Bytes, Status> {
    let whole = bytes.first_chunk::<PREFIX>().copied().filter(|prefix| bytes.len() == PREFIX + message_length(prefix));
    let Some(prefix) = whole else {
        return Err(Status::new(Code::INTERNAL, "the answer is not exactly one whole message"));
    };
    let message = bytes.split_off(PREFIX);
    if prefix[0] & 1 == 0 { Ok(message) } else { decompress(encoding, &message, MAX_ANSWER_BYTES).map(Bytes::from) }
}

/// The status of an answer without a message; where it names none, what gRPC makes of the HTTP status.
pub fn status_of(http: StatusCode, headers: &HeaderMap) -> Status {
    if headers.contains_key(GRPC_STATUS) {
        return match Code::of(headers) {
            Code::OK => Status::new(Code::INTERNAL, "the answer has no message"),
            code => Status::new(code, message_of(headers)),
        };
    }
    let code = match http.as_u16() {
        400 => Code::INTERNAL,
        401 => Code::UNAUTHENTICATED,
        403 => Code::PERMISSION_DENIED,
        404 => Code::UNIMPLEMENTED,
        429 | 502 | 503 | 504 => Code::UNAVAILABLE,
        _ => Code::UNKNOWN,
    };
    Status::new(code, format!("the server sent no gRPC status, but HTTP status {http}"))
}
