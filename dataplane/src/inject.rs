//! Writes the model id into each message of a request on its way to the runtime.

use std::collections::VecDeque;

use bytes::{BufMut, Bytes, BytesMut};

use crate::body::Piece;
use crate::compression::decompress;
use crate::fieldpath::{Located, Malformed, locate, replace};
use crate::frames::{PREFIX, message_length};
use crate::grpc::{Code, Status};

/// Takes the chunks of a request and gives them back with the id in place.
///
/// Only the part of a message before the id is ever held; a message without it is held whole, since its length comes
/// first.
pub struct Injector {
    path: Vec<u32>,
    id: Box<str>,
    encoding: String,
    limit: usize,
    held: BytesMut,
    /// Bytes of the current message that pass unchanged.
    passing: usize,
    /// Not worth looking again before so many bytes are held.
    next_look: usize,
    ready: VecDeque<Bytes>,
    finished: bool,
}

impl Injector {
    pub fn new(path: &[u32], id: &str, encoding: &str, limit: usize) -> Injector {
        Injector {
            path: path.to_vec(),
            id: id.into(),
            encoding: encoding.to_owned(),
            limit,
            held: BytesMut::new(),
            passing: 0,
            next_look: 0,
            ready: VecDeque::new(),
            finished: false,
        }
    }

    /// What is ready to be sent.
    pub fn pop(&mut self) -> Option<Piece> {
        let bytes = self.ready.pop_front()?;
        Some(Piece::Chunk { bytes, last: self.finished && self.ready.is_empty() })
    }

    /// The request ends: what is held of an unfinished message goes as it is, for the runtime to refuse.
    pub fn finish(&mut self) {
        self.finished = true;
        if !self.held.is_empty() {
            self.ready.push_back(self.held.split().freeze());
        }
    }

    pub fn is_finished(&self) -> bool {
        self.finished
    }

    /// Takes the next chunk of the request.
    pub fn push(&mut self, mut chunk: Bytes) -> Result<(), Status> {
        while !chunk.is_empty() {
            if self.passing > 0 {
                let pass = chunk.split_to(self.passing.min(chunk.len()));
                self.passing -= pass.len();
                self.ready.push_back(pass);
                continue;
            }
            chunk = if self.held.is_empty() {
                let (used, rewritten) = self.look(&chunk)?;
                self.settle(chunk, used, rewritten)
            } else {
                self.held.extend_from_slice(&chunk);
                if self.held.len() < self.next_look {
                    return Ok(());
                }
                let whole = self.held.split().freeze();
                let (used, rewritten) = self.look(&whole)?;
                self.settle(whole, used, rewritten)
            };
        }
        Ok(())
    }

    /// Sends what was rewritten, and keeps the chunk where more of the message is needed.
    fn settle(&mut self, mut chunk: Bytes, used: usize, rewritten: Option<Bytes>) -> Bytes {
        match rewritten {
            Some(bytes) => {
                self.next_look = 0;
                self.ready.push_back(bytes);
                chunk.split_off(used)
            }
            None => {
                self.held = chunk.into();
                Bytes::new()
            }
        }
    }

    /// Looks at the beginning of a message: how much of it was used, and what to send in its place.
    fn look(&mut self, bytes: &Bytes) -> Result<(usize, Option<Bytes>), Status> {
        let Some(prefix) = bytes.first_chunk::<PREFIX>() else {
            self.next_look = PREFIX;
            return Ok((0, None));
        };
        let length = message_length(prefix);
        let available = &bytes[PREFIX..bytes.len().min(PREFIX + length)];
        if prefix[0] & 1 == 1 {
            return self.look_compressed(available, length);
        }
        let located = locate(&self.path, available, length).map_err(malformed)?;
        if located == Located::Incomplete {
            self.next_look = (PREFIX + length).min(bytes.len() * 2);
            return Ok((0, None));
        }
        let new = replace(&self.path, &located, available, length, &self.id);
        let (used, total, body) =
            new.as_ref().map_or((0, length, &[][..]), |new| (new.consumed, new.total, &new.bytes[..]));
        self.passing = length - used;
        Ok((PREFIX + used, Some(message(total, body)?)))
    }

    fn look_compressed(&mut self, available: &[u8], length: usize) -> Result<(usize, Option<Bytes>), Status> {
        if available.len() < length {
            self.next_look = PREFIX + length;
            return Ok((0, None));
        }
        let plain = decompress(&self.encoding, available, self.limit)?;
        let located = locate(&self.path, &plain, plain.len()).map_err(malformed)?;
        let body = match replace(&self.path, &located, &plain, plain.len(), &self.id) {
            Some(mut new) => {
                new.bytes.extend_from_slice(&plain[new.consumed..]);
                new.bytes
            }
            None => plain,
        };
        // A message may always go uncompressed, whatever grpc-encoding says.
        Ok((PREFIX + length, Some(message(body.len(), &body)?)))
    }
}

fn message(total: usize, start: &[u8]) -> Result<Bytes, Status> {
    let total = u32::try_from(total)
        .map_err(|_| Status::new(Code::RESOURCE_EXHAUSTED, "message larger than 4 GiB with the model id in it"))?;
    let mut bytes = BytesMut::with_capacity(PREFIX + start.len());
    bytes.put_u8(0);
    bytes.put_u32(total);
    bytes.put_slice(start);
    Ok(bytes.freeze())
}

pub fn malformed(Malformed(why): Malformed) -> Status {
    Status::new(Code::INVALID_ARGUMENT, format!("the message has no readable model id: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn framed(flag: u8, body: &[u8]) -> Vec<u8> {
        let mut bytes = vec![flag];
        bytes.extend(u32::try_from(body.len()).unwrap().to_be_bytes());
        bytes.extend(body);
        bytes
    }

    /// Field 1 is the id, field 2 some payload; either order.
    fn body(id: Option<&str>, payload: usize, id_first: bool) -> Vec<u8> {
        let text = |field: u8, text: &[u8]| {
            let mut bytes = vec![field << 3 | 2];
            let mut length = text.len();
            while length >= 0x80 {
                bytes.push((length & 0x7f) as u8 | 0x80);
                length >>= 7;
            }
            bytes.push(length as u8);
            bytes.extend(text);
            bytes
        };
        let id = id.map_or(Vec::new(), |id| text(1, id.as_bytes()));
        let payload = text(2, &vec![9; payload]);
        if id_first { [id, payload].concat() } else { [payload, id].concat() }
    }

    fn run(input: &[u8], cut: usize, id: &str) -> Vec<u8> {
        let mut injector = Injector::new(&[1], id, "gzip", 1 << 20);
        let mut output = Vec::new();
        for chunk in input.chunks(cut) {
            injector.push(Bytes::copy_from_slice(chunk)).unwrap();
            while let Some(Piece::Chunk { bytes, .. }) = injector.pop() {
                output.extend_from_slice(&bytes);
            }
        }
        output
    }

    proptest! {
        #[test]
        fn every_message_gets_the_id_however_it_is_cut(
            messages in prop::collection::vec(
                (prop::option::of("[a-z]{0,20}"), 0_usize..400, any::<bool>(), any::<bool>()), 0..5,
            ),
            cut in 1_usize..200,
        ) {
            use std::io::Write;
            let mut input = Vec::new();
            let mut wanted = Vec::new();
            for (id, payload, id_first, compressed) in &messages {
                let plain = body(id.as_deref(), *payload, *id_first);
                if *compressed {
                    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                    encoder.write_all(&plain).unwrap();
                    input.extend(framed(1, &encoder.finish().unwrap()));
                } else {
                    input.extend(framed(0, &plain));
                }
                let id_first = *id_first && id.is_some();
                wanted.extend(framed(0, &body(Some("the-new-id"), *payload, id_first)));
            }
            prop_assert_eq!(run(&input, cut, "the-new-id"), wanted);
        }
    }

    #[test]
    fn a_large_message_is_not_held_once_the_id_is_known() {
        let mut injector = Injector::new(&[1], "new", "identity", 1 << 20);
        let input = framed(0, &body(Some("old"), 100_000, true));
        injector.push(Bytes::copy_from_slice(&input[..100])).unwrap();
        assert!(injector.pop().is_some());
        assert!(injector.held.is_empty());
    }
}
