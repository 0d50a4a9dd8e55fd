//! A request's body: checked for size as it comes, and kept so that it can be sent again.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use h2::RecvStream;
use http::HeaderMap;

use crate::answer::joined;
use crate::compression::{decompress, too_large};
use crate::fieldpath::{Located, locate};
use crate::frames::{FrameScanner, PREFIX, TooLarge, message_length};
use crate::grpc::{Code, Status};
use crate::heard::Heard;
use crate::inject::malformed;

/// Bytes kept by all requests together, and how many may be.
pub struct Budget {
    pub used: AtomicUsize,
    pub most: usize,
}

impl Budget {
    /// For what is counted elsewhere.
    pub fn unlimited() -> Budget {
        Budget { used: AtomicUsize::new(0), most: usize::MAX }
    }

    pub fn has_room(&self, bytes: usize) -> bool {
        self.used.load(Ordering::Relaxed).saturating_add(bytes) <= self.most
    }
}

/// The next part of a request.
pub enum Piece {
    Chunk { bytes: Bytes, last: bool },
    Trailers(HeaderMap),
    End,
}

/// Why there is no next part.
pub enum BodyError {
    /// The client reset the stream or its connection ended.
    Gone,
    Refused(Status),
}

pub struct RequestBody<'a> {
    /// None where the whole request was there from the start.
    recv: Option<RecvStream>,
    budget: &'a Budget,
    max_message_bytes: usize,
    scanner: FrameScanner,
    /// Read but not yet taken from `at` on; before it, kept to be sent again.
    chunks: Vec<Bytes>,
    at: usize,
    kept: usize,
    keeping: bool,
    /// All of it is wanted at the end, too.
    holding: bool,
    /// Something was taken that is no longer kept.
    lost: bool,
    ended: bool,
    trailers: Option<HeaderMap>,
    heard: Option<Box<Heard>>,
}

impl<'a> RequestBody<'a> {
    pub fn new(recv: RecvStream, budget: &'a Budget, max_message_bytes: usize) -> RequestBody<'a> {
        let ended = recv.is_end_stream();
        RequestBody {
            recv: Some(recv),
            budget,
            max_message_bytes,
            scanner: FrameScanner::default(),
            chunks: Vec::new(),
            at: 0,
            kept: 0,
            keeping: true,
            holding: false,
            lost: false,
            ended,
            trailers: None,
            heard: None,
        }
    }

    /// A request that was read already.
    pub fn whole(bytes: Bytes, budget: &'a Budget) -> RequestBody<'a> {
        let kept = bytes.len();
        budget.used.fetch_add(kept, Ordering::Relaxed);
        RequestBody {
            recv: None,
            budget,
            max_message_bytes: kept,
            scanner: FrameScanner::default(),
            chunks: vec![bytes],
            at: 0,
            kept,
            keeping: true,
            holding: false,
            lost: false,
            ended: true,
            trailers: None,
            heard: None,
        }
    }

    /// Bytes of the messages so far, without their prefixes.
    pub fn message_bytes(&self) -> u64 {
        self.scanner.message_bytes()
    }

    /// Has all of it heard, what was read already and what comes, but for repetitions.
    pub fn let_hear(&mut self, mut heard: Box<Heard>) {
        self.chunks.iter().for_each(|chunk| heard.put(chunk));
        self.heard = Some(heard);
    }

    pub fn take_heard(&mut self) -> Option<Box<Heard>> {
        self.heard.take()
    }

    /// Starts again from the beginning. False where that is no longer kept.
    pub fn rewind(&mut self) -> bool {
        if !self.lost {
            self.at = 0;
        }
        !self.lost
    }

    /// Keeps a unary request to its end, where there is room for it.
    pub fn hold(&mut self) {
        self.holding = true;
    }

    /// The request will not be sent again.
    pub fn stop_keeping(&mut self) {
        if !self.holding {
            self.let_go();
        }
    }

    fn let_go(&mut self) {
        self.holding = false;
        self.keeping = false;
        self.drop_taken();
    }

    /// The whole unary request, if it was held.
    pub fn whole_message(&self) -> Option<Bytes> {
        if !self.holding || self.lost || !self.ended {
            return None;
        }
        let whole = joined(self.chunks.clone());
        let is_one = whole.first_chunk::<PREFIX>().is_some_and(|prefix| whole.len() == PREFIX + message_length(prefix));
        is_one.then_some(whole)
    }

    fn drop_taken(&mut self) {
        if self.at > 0 {
            let freed: usize = self.chunks.drain(..self.at).map(|chunk| chunk.len()).sum();
            self.at = 0;
            self.kept -= freed;
            self.budget.used.fetch_sub(freed, Ordering::Relaxed);
            self.lost = true;
        }
    }

    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Piece, BodyError>> {
        if let Some(chunk) = self.chunks.get(self.at) {
            let bytes = chunk.clone();
            self.at += 1;
            let last = self.ended && self.trailers.is_none() && self.at == self.chunks.len();
            if !self.keeping {
                self.drop_taken();
            }
            return Poll::Ready(Ok(Piece::Chunk { bytes, last }));
        }
        if self.ended {
            return Poll::Ready(Ok(self.trailers.clone().map_or(Piece::End, Piece::Trailers)));
        }
        match self.poll_read(cx) {
            Poll::Ready(Ok(Some(bytes))) => {
                if self.keeping {
                    self.keep(bytes.clone());
                    self.at = self.chunks.len();
                    let too_many = self.budget.used.load(Ordering::Relaxed) > self.budget.most;
                    if self.kept > self.max_message_bytes || too_many || (self.holding && self.is_beyond_one_message())
                    {
                        self.let_go();
                    }
                } else {
                    self.lost = true;
                }
                Poll::Ready(Ok(Piece::Chunk { bytes, last: self.ended }))
            }
            Poll::Ready(Ok(None)) => Poll::Ready(Ok(self.trailers.clone().map_or(Piece::End, Piece::Trailers))),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => Poll::Pending,
        }
    }

    fn keep(&mut self, bytes: Bytes) {
        self.kept += bytes.len();
        self.budget.used.fetch_add(bytes.len(), Ordering::Relaxed);
        self.chunks.push(bytes);
    }

    /// Reads from the client; None at the end.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, BodyError>> {
        let Some(recv) = &mut self.recv else { return Poll::Ready(Ok(None)) };
        let bytes = match recv.poll_data(cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Some(Err(_))) => return Poll::Ready(Err(BodyError::Gone)),
            Poll::Ready(Some(Ok(bytes))) => bytes,
            Poll::Ready(None) => match recv.poll_trailers(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(_)) => return Poll::Ready(Err(BodyError::Gone)),
                Poll::Ready(Ok(trailers)) => {
                    self.ended = true;
                    self.trailers = trailers;
                    return Poll::Ready(Ok(None));
                }
            },
        };
        if let Err(TooLarge(size)) = self.scanner.feed(&bytes, self.max_message_bytes) {
            return Poll::Ready(Err(BodyError::Refused(too_large(size, self.max_message_bytes, "received "))));
        }
        // It fails only on a stream that is gone, which the next read tells.
        let _ = recv.flow_control().release_capacity(bytes.len());
        self.ended = recv.is_end_stream();
        if let Some(heard) = &mut self.heard {
            heard.put(&bytes);
        }
        Poll::Ready(Ok(Some(bytes)))
    }

    /// Finds the string at `path` in the first message, reading only as far as it must.
    ///
    /// None where the message has none. What was read is still to be taken.
    pub fn poll_extract(
        &mut self,
        cx: &mut Context<'_>,
        path: &[u32],
        encoding: &str,
    ) -> Poll<Result<Option<String>, BodyError>> {
        loop {
            if let Some(found) = self.look(path, encoding).map_err(BodyError::Refused)? {
                return Poll::Ready(Ok(found));
            }
            if self.ended {
                return Poll::Ready(Ok(None));
            }
            match self.poll_read(cx)? {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(bytes)) => self.merge(bytes),
                Poll::Ready(None) => {}
            }
        }
    }

    /// Reads to the end and gives the one message of a unary call, as it came: with its prefix.
    pub fn poll_whole(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, BodyError>> {
        while !self.ended {
            match self.poll_read(cx)? {
                Poll::Pending => return Poll::Pending,
                // Whoever sends more than one message could go on without end.
                Poll::Ready(Some(_)) if self.kept > PREFIX + self.max_message_bytes => break,
                Poll::Ready(Some(bytes)) => self.keep(bytes),
                Poll::Ready(None) => {}
            }
        }
        let whole = joined(self.chunks.drain(..).collect());
        self.chunks.push(whole.clone());
        let prefix = whole.first_chunk::<PREFIX>().filter(|_| self.ended);
        Poll::Ready(match prefix {
            Some(prefix) if whole.len() == PREFIX + message_length(prefix) => Ok(whole),
            _ => {
                let message = "a unary call needs exactly one whole message";
                Err(BodyError::Refused(Status::new(Code::INVALID_ARGUMENT, message)))
            }
        })
    }

    /// Reads to the end and gives the one message of a unary call.
    pub fn poll_message(&mut self, cx: &mut Context<'_>, encoding: &str) -> Poll<Result<Bytes, BodyError>> {
        let mut whole = std::task::ready!(self.poll_whole(cx))?;
        let message = whole.split_off(PREFIX);
        Poll::Ready(if whole[0] & 1 == 0 {
            Ok(message)
        } else {
            let plain = decompress(encoding, &message, self.max_message_bytes);
            plain.map(Bytes::from).map_err(BodyError::Refused)
        })
    }

    /// Puts a chunk behind the first, once that has doubled, so that all is looked at in one piece without being
    /// copied over and over.
    fn merge(&mut self, bytes: Bytes) {
        self.keep(bytes);
        let first = self.chunks.first().map_or(0, Bytes::len);
        if self.chunks.len() > 1 && (self.ended || first < PREFIX || self.kept >= first * 2 || self.has_first_message())
        {
            let mut whole = BytesMut::with_capacity(self.kept);
            self.chunks.drain(..).for_each(|chunk| whole.extend_from_slice(&chunk));
            self.chunks.push(whole.freeze());
        }
    }

    fn is_beyond_one_message(&self) -> bool {
        let prefix = self.chunks.first().and_then(|first| first.first_chunk::<PREFIX>());
        prefix.is_some_and(|prefix| self.kept > PREFIX + message_length(prefix))
    }

    fn has_first_message(&self) -> bool {
        let prefix = self.chunks.first().and_then(|first| first.first_chunk::<PREFIX>());
        prefix.is_some_and(|prefix| self.kept >= PREFIX + message_length(prefix))
    }

    /// Looks at the first chunk. None where more is needed, Some(None) where the message has no such field.
    fn look(&self, path: &[u32], encoding: &str) -> Result<Option<Option<String>>, Status> {
        let Some(first) = self.chunks.first() else { return Ok(None) };
        let Some(prefix) = first.first_chunk::<PREFIX>() else { return Ok(None) };
        let length = message_length(prefix);
        let available = &first[PREFIX..first.len().min(PREFIX + length)];
        if prefix[0] & 1 == 1 {
            if available.len() < length {
                return Ok(None);
            }
            let plain = decompress(encoding, available, self.max_message_bytes)?;
            return found(path, &plain, plain.len());
        }
        found(path, available, length)
    }
}

fn found(path: &[u32], bytes: &[u8], total: usize) -> Result<Option<Option<String>>, Status> {
    match locate(path, bytes, total).map_err(malformed)? {
        Located::Incomplete => Ok(None),
        Located::Absent { .. } => Ok(Some(None)),
        Located::At { value, .. } => match std::str::from_utf8(&bytes[value]) {
            Ok(text) => Ok(Some(Some(text.to_owned()))),
            Err(_) => Err(malformed(crate::fieldpath::Malformed("it is not UTF-8"))),
        },
    }
}

impl Drop for RequestBody<'_> {
    fn drop(&mut self) {
        if self.kept > 0 {
            self.budget.used.fetch_sub(self.kept, Ordering::Relaxed);
        }
    }
}
