//! One stream in both directions that Python holds with another server, such as a watch.

use bytes::{Bytes, BytesMut};
use h2::RecvStream;
use h2::client::ResponseFuture;
use http::HeaderMap;
use http::response::Parts;
use tokio::sync::mpsc;

use crate::compression::decompress;
use crate::endpoint::Unreachable;
use crate::frames::{PREFIX, framed, message_length};
use crate::grpc::{Code, GRPC_ENCODING, GRPC_STATUS, Status};
use crate::poll::{Either, either};
use crate::unary::{MAX_ANSWER_BYTES, Order, head, lost, status_of};

/// Holds a stream until it ends, and gives the status that it ended with.
///
/// `order` has no message of its own: those come by `outgoing`. What the server says goes to `take`, which says whether
/// there is room for more.
pub async fn talk<Room: Future<Output = ()>>(
    order: Order,
    mut outgoing: mpsc::UnboundedReceiver<Bytes>,
    take: impl Fn(Bytes) -> Room,
) -> Status {
    let place = match order.server.acquire(0).await {
        Ok(place) => place,
        Err(Unreachable(why)) => return Status::new(Code::UNAVAILABLE, format!("failed to connect: {why}")),
    };
    let (response, mut send) = match place.sender().send_request(head(&order), false) {
        Ok(opened) => opened,
        Err(error) => return lost(&error),
    };
    let mut incoming = Incoming { state: State::Head(response), buffer: BytesMut::new(), head: None };
    loop {
        match either(incoming.next(), outgoing.recv()).await {
            Either::Left(Ok(message)) => take(message).await,
            Either::Left(Err(status)) => return status,
            // If it fails, the next message does, too, and tells why.
            Either::Right(Some(message)) => drop(send.send_data(framed(&message), false)),
            Either::Right(None) => return Status::new(Code::CANCELLED, "the stream was given up"),
        }
    }
}

/// What the server says.
struct Incoming {
    state: State,
    /// Read, but no whole message yet.
    buffer: BytesMut,
    head: Option<Parts>,
}

enum State {
    Head(ResponseFuture),
    Body(RecvStream),
}

impl Incoming {
    /// The next message, or how the stream ended. May be dropped and called again without losing anything.
    async fn next(&mut self) -> Result<Bytes, Status> {
        if let State::Head(response) = &mut self.state {
            let (parts, recv) = response.await.map_err(|error| lost(&error))?.into_parts();
            self.head = Some(parts);
            self.state = State::Body(recv);
        }
        let State::Body(recv) = &mut self.state else { unreachable!("the head has come") };
        loop {
            if let Some(message) = whole_message(&mut self.buffer, self.head.as_ref())? {
                return Ok(message);
            }
            match recv.data().await {
                Some(Ok(chunk)) => {
                    // It fails only on a stream that is gone, which the next read tells.
                    let _ = recv.flow_control().release_capacity(chunk.len());
                    self.buffer.extend_from_slice(&chunk);
                }
                Some(Err(error)) => return Err(lost(&error)),
                None => {
                    let trailers = recv.trailers().await.map_err(|error| lost(&error))?;
                    return Err(end(self.head.as_ref(), trailers.as_ref()));
                }
            }
        }
    }
}

fn whole_message(buffer: &mut BytesMut, head: Option<&Parts>) -> Result<Option<Bytes>, Status> {
    let Some(prefix) = buffer.first_chunk::<PREFIX>().copied() else { return Ok(None) };
    let length = message_length(&prefix);
    if buffer.len() < PREFIX + length {
        buffer.reserve(PREFIX + length - buffer.len());
        return Ok(None);
    }
    let message = buffer.split_to(PREFIX + length).freeze().split_off(PREFIX);
    if prefix[0] & 1 == 0 {
        return Ok(Some(message));
    }
    let encoding = head.and_then(|head| head.headers.get(GRPC_ENCODING)).and_then(|value| value.to_str().ok());
    decompress(encoding.unwrap_or("identity"), &message, MAX_ANSWER_BYTES).map(|plain| Some(Bytes::from(plain)))
}

fn end(head: Option<&Parts>, trailers: Option<&HeaderMap>) -> Status {
    let Some(head) = head else { return Status::new(Code::UNKNOWN, "the stream ended without a head") };
    let headers = trailers.filter(|trailers| trailers.contains_key(GRPC_STATUS)).unwrap_or(&head.headers);
    if headers.contains_key(GRPC_STATUS) && Code::of(headers) == Code::OK {
        return Status::new(Code::OK, "");
    }
    status_of(head.status, headers)
}
