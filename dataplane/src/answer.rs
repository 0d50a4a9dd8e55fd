//! A whole answer that is kept here.

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Response};

use crate::client::Client;
use crate::compression::{decompress, too_large};
use crate::frames::{PREFIX, message_length};
use crate::grpc::{Code, GRPC_ENCODING, Status};

pub struct Answer {
    head: HeaderMap,
    chunks: Vec<Bytes>,
    bytes: usize,
    most: usize,
    trailers: Option<HeaderMap>,
}

impl Answer {
    /// An answer of at most so many bytes; of a larger one only the status is kept.
    pub fn new(most: usize) -> Answer {
        Answer { head: HeaderMap::new(), chunks: Vec::new(), bytes: 0, most, trailers: None }
    }

    pub fn put_head(&mut self, head: &Response<()>) {
        self.head = head.headers().clone();
    }

    pub fn put_data(&mut self, bytes: &Bytes) {
        self.bytes += bytes.len();
        if self.is_too_large() {
            self.chunks.clear();
        } else {
            self.chunks.push(bytes.clone());
        }
    }

    pub fn put_trailers(&mut self, trailers: &HeaderMap) {
        self.trailers = Some(trailers.clone());
    }

    pub fn is_too_large(&self) -> bool {
        self.bytes > self.most
    }

    pub fn code(&self) -> Code {
        Code::of(self.trailers.as_ref().unwrap_or(&self.head))
    }

    /// The one message of a unary call's answer, decompressed to at most `limit` bytes.
    pub fn message(self, limit: usize) -> Result<Bytes, Status> {
        if self.is_too_large() {
            return Err(too_large(self.bytes, limit, "the model's answer is refused: received "));
        }
        let mut bytes = joined(self.chunks);
        let whole = bytes.first_chunk::<PREFIX>().filter(|prefix| bytes.len() == PREFIX + message_length(prefix));
        let Some(&[flag, ..]) = whole else {
            let message = "the model's answer is not exactly one message, as that of a unary call is";
            return Err(Status::new(Code::UNKNOWN, message));
        };
        let message = bytes.split_off(PREFIX);
        if flag & 1 == 0 {
            return Ok(message);
        }
        let encoding = self.head.get(GRPC_ENCODING).and_then(|value| value.to_str().ok()).unwrap_or("identity");
        decompress(encoding, &message, limit).map(Bytes::from)
    }

    /// Gives the client the metadata and the status, without messages.
    pub fn give_status(self, client: &mut Client) {
        let mut head = Response::new(());
        *head.headers_mut() = self.head;
        match self.trailers {
            None => client.head(head, true),
            Some(trailers) => {
                client.head(head, false);
                client.trailers(trailers);
            }
        }
    }
}

/// All chunks in one piece; a single one is not copied.
pub fn joined(mut chunks: Vec<Bytes>) -> Bytes {
    if chunks.len() == 1 {
        return chunks.swap_remove(0);
    }
    let mut whole = BytesMut::with_capacity(chunks.iter().map(Bytes::len).sum());
    chunks.iter().for_each(|chunk| whole.extend_from_slice(chunk));
    whole.freeze()
}
