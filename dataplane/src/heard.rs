//! The messages of one direction of a call, kept as they pass for those who process payloads.

use std::cell::RefCell;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;

use crate::compression::decompress;
use crate::frames::{PREFIX, message_length};
use crate::grpc::{GRPC_ENCODING, Status};
use crate::packed::PACKED;
use crate::payload::{Loss, Payloads};

/// Bytes of a direction up to which they are copied. A chunk of HTTP/2 shares the buffer that its connection was read
/// into, so that to keep a small one would keep all of that.
const SMALL: usize = 4 << 10;

/// Messages of one direction that are kept, at most.
const MAX_MESSAGES: usize = 1_000;

/// Directions whose memory one thread keeps for others, at most: some more than there are calls at once.
const MAX_SPARE: usize = 512;

thread_local! {
    #[expect(clippy::vec_box, reason = "the box is what is used again")]
    static SPARE: RefCell<Vec<Box<Heard>>> = const { RefCell::new(Vec::new()) };
}

pub struct Heard {
    payloads: Arc<Payloads>,
    /// Names and values of metadata, each after its length, then the first bytes of messages.
    copied: Vec<u8>,
    /// Where those begin.
    head: usize,
    /// What comes after them.
    chunks: Vec<Bytes>,
    kept: usize,
    /// Of those kept, as many as are counted.
    counted: usize,
    walk: Walk,
    /// Why no more is kept.
    loss: Option<Loss>,
}

/// One message.
pub enum Message<'a> {
    /// Part of one chunk.
    Shared(Bytes),
    /// In pieces to be joined, of so many bytes together.
    Pieces(Vec<&'a [u8]>, usize),
    Decompressed(Vec<u8>),
}

impl Heard {
    pub fn new(payloads: &Arc<Payloads>) -> Heard {
        Heard {
            payloads: Arc::clone(payloads),
            copied: Vec::new(),
            head: 0,
            chunks: Vec::new(),
            kept: 0,
            counted: 0,
            walk: Walk::default(),
            loss: None,
        }
    }

    /// One in the memory of another, where there is one.
    pub fn reused(payloads: &Arc<Payloads>) -> Box<Heard> {
        let spare = SPARE.with_borrow_mut(Vec::pop).filter(|spare| Arc::ptr_eq(&spare.payloads, payloads));
        spare.unwrap_or_else(|| Box::new(Heard::new(payloads)))
    }

    /// Leaves the memory of a small one to others.
    pub fn reuse(mut self: Box<Heard>) {
        if !self.is_small() {
            return;
        }
        self.copied.clear();
        (self.head, self.kept) = (0, 0);
        self.walk = Walk::default();
        SPARE.with_borrow_mut(|spare| {
            if spare.len() < MAX_SPARE {
                spare.push(self);
            }
        });
    }

    /// One that has been heard and copied, its metadata first.
    pub fn of(payloads: &Arc<Payloads>, copied: &[u8], head: usize) -> Heard {
        let mut heard = Heard::new(payloads);
        heard.walk.feed(&copied[head..]);
        heard.copied = copied.to_vec();
        (heard.head, heard.kept) = (head, copied.len() - head);
        heard
    }

    /// Whether all of it is here, and little enough to be copied once more.
    pub fn is_small(&self) -> bool {
        self.chunks.is_empty() && self.loss.is_none() && self.copied.len() <= PACKED
    }

    /// Metadata, then messages, of a small one.
    pub fn copied(&self) -> &[u8] {
        &self.copied
    }

    /// Bytes of metadata.
    pub fn head(&self) -> usize {
        self.head
    }

    /// Bytes of messages.
    pub fn kept(&self) -> usize {
        self.kept
    }

    pub fn put_head(&mut self, headers: &HeaderMap) {
        // Metadata and a message of usual size.
        self.copied.reserve(1 << 10);
        for (name, value) in headers {
            for part in [name.as_str().as_bytes(), value.as_bytes()] {
                // HTTP/2 bounds heads far below 4 GiB.
                self.copied.extend_from_slice(&u32::try_from(part.len()).unwrap_or(0).to_ne_bytes());
                self.copied.extend_from_slice(part);
            }
        }
        self.head = self.copied.len();
    }

    pub fn put(&mut self, chunk: &Bytes) {
        self.walk.feed(chunk);
        if self.loss.is_some() {
            return;
        }
        let kept = self.kept + chunk.len();
        if kept > self.payloads.max_message_bytes + PREFIX || self.walk.messages > MAX_MESSAGES {
            return self.give_up(Loss::Stream);
        }
        if self.chunks.is_empty() && kept <= SMALL {
            self.copied.extend_from_slice(chunk);
        } else if self.reserve(chunk.len()) {
            self.chunks.push(chunk.clone());
        } else {
            return self.give_up(Loss::Bytes);
        }
        self.kept = kept;
    }

    /// Counts what is small, too, now that all is there.
    pub fn settle(&mut self) {
        if !self.reserve(self.kept - self.counted) {
            self.kept = 0;
            self.give_up(Loss::Bytes);
        }
    }

    fn reserve(&mut self, bytes: usize) -> bool {
        let has_room = self.payloads.reserve(bytes);
        if has_room {
            self.counted += bytes;
        }
        has_room
    }

    /// Keeps the messages that are there whole, and nothing more.
    fn give_up(&mut self, loss: Loss) {
        self.loss = Some(loss);
        if self.messages() == 0 {
            self.payloads.release(self.counted);
            (self.kept, self.counted) = (0, 0);
            self.copied.truncate(self.head);
            self.chunks = Vec::new();
        }
    }

    /// How many whole messages are kept.
    pub fn messages(&self) -> usize {
        match &self.walk.first {
            Some(first) if first.bytes.end <= self.kept => {
                1 + self.walk.more.partition_point(|span| span.bytes.end <= self.kept)
            }
            _ => 0,
        }
    }

    /// Messages that are not kept, and why.
    pub fn lost(&self) -> Option<(Loss, usize)> {
        self.loss.map(|loss| (loss, self.walk.messages - self.messages()))
    }

    /// Bytes of a message as it came, which are fewer than it has where it is compressed.
    pub fn size(&self, message: usize) -> usize {
        self.walk.span(message).map_or(0, |span| span.bytes.len())
    }

    pub fn is_compressed(&self, message: usize) -> bool {
        self.walk.span(message).is_some_and(|span| span.compressed)
    }

    /// A message without compression.
    pub fn message(&self, message: usize) -> Result<Message<'_>, Status> {
        let Some(Span { bytes, compressed }) = self.walk.span(message) else {
            return Ok(Message::Pieces(Vec::new(), 0));
        };
        let pieces = || self.pieces(bytes).collect::<Vec<_>>();
        if *compressed {
            let encoding = self.metadata().find(|(name, _)| *name == GRPC_ENCODING.as_str());
            let encoding = encoding.and_then(|(_, value)| std::str::from_utf8(value).ok()).unwrap_or("identity");
            return decompress(encoding, &pieces().concat(), self.payloads.max_message_bytes)
                .map(Message::Decompressed);
        }
        Ok(self.shared(bytes).map_or_else(|| Message::Pieces(pieces(), bytes.len()), Message::Shared))
    }

    /// Names and values in their order.
    pub fn metadata(&self) -> impl Iterator<Item = (&str, &[u8])> {
        let mut rest = &self.copied[..self.head];
        let mut next = move || {
            let (length, after) = rest.split_first_chunk()?;
            let (part, after) = after.split_at_checked(u32::from_ne_bytes(*length) as usize)?;
            rest = after;
            Some(part)
        };
        std::iter::from_fn(move || Some((std::str::from_utf8(next()?).ok()?, next()?)))
    }

    /// The bytes of a range, if they are in one chunk.
    fn shared(&self, range: &Range<usize>) -> Option<Bytes> {
        let mut begin = self.copied.len() - self.head;
        for chunk in &self.chunks {
            let end = begin + chunk.len();
            if range.start >= begin && range.end <= end && !range.is_empty() {
                return Some(chunk.slice(range.start - begin..range.end - begin));
            }
            begin = end;
        }
        None
    }

    fn pieces(&self, range: &Range<usize>) -> impl Iterator<Item = &[u8]> {
        let mut begin = 0;
        let all = std::iter::once(&self.copied[self.head..]).chain(self.chunks.iter().map(|chunk| &chunk[..]));
        all.filter_map(move |piece| {
            let (from, to) = (range.start.max(begin), range.end.min(begin + piece.len()));
            let part = (from < to).then(|| &piece[from - begin..to - begin]);
            begin += piece.len();
            part
        })
    }
}

impl Drop for Heard {
    fn drop(&mut self) {
        self.payloads.release(self.counted);
    }
}

/// Where a message is, without its prefix, in all bytes of its direction.
struct Span {
    bytes: Range<usize>,
    compressed: bool,
}

/// Follows the prefixes of messages, and remembers where each is.
#[derive(Default)]
struct Walk {
    at: usize,
    prefix: [u8; PREFIX],
    have: usize,
    remaining: usize,
    /// Of the first `MAX_MESSAGES` whole messages. Most directions have one alone.
    first: Option<Span>,
    more: Vec<Span>,
    /// Whole ones.
    messages: usize,
}

impl Walk {
    fn feed(&mut self, mut chunk: &[u8]) {
        loop {
            if self.have < PREFIX {
                let take = (PREFIX - self.have).min(chunk.len());
                self.prefix[self.have..self.have + take].copy_from_slice(&chunk[..take]);
                self.have += take;
                self.at += take;
                chunk = &chunk[take..];
                if self.have < PREFIX {
                    return;
                }
                self.remaining = message_length(&self.prefix);
            }
            let skip = self.remaining.min(chunk.len());
            self.remaining -= skip;
            self.at += skip;
            chunk = &chunk[skip..];
            if self.remaining > 0 {
                return;
            }
            self.have = 0;
            self.messages += 1;
            let bytes = self.at - message_length(&self.prefix)..self.at;
            let span = Span { bytes, compressed: self.prefix[0] & 1 == 1 };
            if self.messages == 1 {
                self.first = Some(span);
            } else if self.messages <= MAX_MESSAGES {
                self.more.push(span);
            }
        }
    }

    fn span(&self, message: usize) -> Option<&Span> {
        match message.checked_sub(1) {
            None => self.first.as_ref(),
            Some(more) => self.more.get(more),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frames::framed;
    use proptest::prelude::*;

    fn heard(bytes: &[u8], cut: usize, most_bytes: usize) -> (Arc<Payloads>, Heard) {
        let payloads = Arc::new(Payloads::new(most_bytes, 16 << 20));
        let mut heard = Heard::new(&payloads);
        bytes.chunks(cut).for_each(|chunk| heard.put(&Bytes::copy_from_slice(chunk)));
        heard.settle();
        (payloads, heard)
    }

    fn bytes_of(message: Message<'_>) -> Vec<u8> {
        match message {
            Message::Shared(bytes) => bytes.to_vec(),
            Message::Pieces(pieces, size) => {
                let joined = pieces.concat();
                assert_eq!(joined.len(), size);
                joined
            }
            Message::Decompressed(bytes) => bytes,
        }
    }

    fn messages(sizes: &[usize]) -> (Vec<Vec<u8>>, Vec<u8>) {
        let messages: Vec<Vec<u8>> =
            sizes.iter().map(|&size| (0..size).map(|at| u8::try_from((at + size) % 251).unwrap()).collect()).collect();
        let wire = messages.iter().flat_map(|message| framed(message).to_vec()).collect();
        (messages, wire)
    }

    proptest! {
        #[test]
        fn messages_come_back_however_they_are_cut(
            sizes in prop::collection::vec(0_usize..6_000, 0..6), cut in 1_usize..9_000,
        ) {
            let (messages, wire) = messages(&sizes);
            let (payloads, heard) = heard(&wire, cut, usize::MAX);
            prop_assert_eq!(heard.messages(), messages.len());
            for (at, message) in messages.iter().enumerate() {
                prop_assert_eq!(heard.size(at), message.len());
                prop_assert_eq!(&bytes_of(heard.message(at).ok().unwrap()), message);
            }
            prop_assert_eq!(payloads.held(), wire.len());
            drop(heard);
            prop_assert_eq!(payloads.held(), 0);
        }

        #[test]
        fn nothing_is_kept_beyond_the_bound_and_each_loss_is_counted(
            sizes in prop::collection::vec(0_usize..6_000, 1..6), cut in 1_usize..9_000, most in 0_usize..20_000,
        ) {
            let (messages, wire) = messages(&sizes);
            let (payloads, heard) = heard(&wire, cut, most);
            prop_assert!(payloads.held() <= most);
            let lost = heard.lost().map_or(0, |(_, count)| count);
            prop_assert_eq!(heard.messages() + lost, messages.len());
            for (at, message) in messages.iter().enumerate().take(heard.messages()) {
                prop_assert_eq!(&bytes_of(heard.message(at).ok().unwrap()), message);
            }
            drop(heard);
            prop_assert_eq!(payloads.held(), 0);
        }
    }

    #[test]
    fn a_stream_is_kept_up_to_so_many_messages() {
        let (_, wire) = messages(&[3; MAX_MESSAGES + 20]);
        let (_, heard) = heard(&wire, 64, usize::MAX);
        assert!(heard.messages() <= MAX_MESSAGES && heard.messages() > MAX_MESSAGES - 20);
        let (loss, count) = heard.lost().unwrap();
        assert!(matches!(loss, Loss::Stream));
        assert_eq!(heard.messages() + count, MAX_MESSAGES + 20);
    }

    #[test]
    fn metadata_keeps_order_and_repetitions() {
        let mut headers = HeaderMap::new();
        for (name, value) in [("a", "1"), ("b-bin", "AA"), ("a", "")] {
            headers.append(name, value.parse().unwrap());
        }
        let (_, mut heard) = heard(&[], 1, 0);
        heard.put_head(&headers);
        let mut found: Vec<_> = heard.metadata().collect();
        found.sort_unstable();
        assert_eq!(found, [("a", &b""[..]), ("a", b"1"), ("b-bin", b"AA")]);
    }
}
