//! A whole answer that is kept here.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Response};

use crate::client::Client;
use crate::compression::{decompress, too_large};
use crate::frames::{PREFIX, message_length};
use crate::grpc::{Code, GRPC_ENCODING, Status};
use crate::plane::Plane;

pub struct Answer {
    head: HeaderMap,
    chunks: Vec<Bytes>,
    bytes: usize,
    most: usize,
    beyond_one_message: bool,
    trailers: Option<HeaderMap>,
    /// Whose budget for comparing counts the bytes.
    counted_by: Option<Arc<Plane>>,
}

impl Answer {
    /// An answer of one message with at most so many bytes; of any other only the status is kept.
    pub fn new(most_bytes: usize) -> Answer {
        Answer {
            head: HeaderMap::new(),
            chunks: Vec::new(),
            bytes: 0,
            most: PREFIX + most_bytes,
            beyond_one_message: false,
            trailers: None,
            counted_by: None,
        }
    }

    /// An answer to be compared, for which there must be room.
    pub fn to_compare(plane: &Arc<Plane>) -> Answer {
        let mut answer = Answer::new(plane.settings.max_message_bytes);
        answer.counted_by = Some(Arc::clone(plane));
        answer
    }

    pub fn put_head(&mut self, head: &Response<()>) {
        self.head = head.headers().clone();
    }

    pub fn put_data(&mut self, bytes: &Bytes) {
        if self.is_given_up() {
            return;
        }
        self.bytes += bytes.len();
        self.chunks.push(bytes.clone());
        if let Some(plane) = &self.counted_by {
            plane.shadows.budget.used.fetch_add(bytes.len(), Ordering::Relaxed);
            if !plane.shadows.budget.has_room(0) {
                self.most = 0;
            }
        }
        let prefix = self.chunks[0].first_chunk::<PREFIX>();
        self.beyond_one_message = prefix.is_some_and(|prefix| self.bytes > PREFIX + message_length(prefix));
        if self.is_given_up() {
            self.chunks.clear();
            self.stop_counting();
        }
    }

    pub fn put_trailers(&mut self, trailers: &HeaderMap) {
        self.trailers = Some(trailers.clone());
    }

    fn stop_counting(&mut self) {
        if let Some(plane) = self.counted_by.take() {
            plane.shadows.budget.used.fetch_sub(self.bytes, Ordering::Relaxed);
        }
    }

    fn is_too_large(&self) -> bool {
        self.bytes > self.most
    }

    /// There is no use in more of it.
    pub fn is_given_up(&self) -> bool {
        self.is_too_large() || self.beyond_one_message
    }

    /// The headers or trailers that the status is in.
    pub fn status(&self) -> &HeaderMap {
        self.trailers.as_ref().unwrap_or(&self.head)
    }

    /// The one message of a unary call's answer, decompressed to at most `limit` bytes.
    pub fn message(&mut self, limit: usize) -> Result<Bytes, Status> {
        if self.is_too_large() {
            return Err(too_large(self.bytes, limit, "the model's answer is refused: received "));
        }
        let mut bytes = joined(std::mem::take(&mut self.chunks));
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
    pub fn give_status(&mut self, client: &mut Client) {
        let mut head = Response::new(());
        *head.headers_mut() = std::mem::take(&mut self.head);
        match self.trailers.take() {
            None => client.head(head, true),
            Some(trailers) => {
                client.head(head, false);
                client.trailers(trailers);
            }
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.stop_counting();
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
