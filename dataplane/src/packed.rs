//! Calls of a few bytes, as most are, one after the other in memory that is used again.
//!
//! To keep each of them by itself costs several allocations, and as many to be freed by another thread, seconds later,
//! when no cache has them any more.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use crate::clock::epoch_s;
use crate::grpc::Code;
use crate::heard::Heard;
use crate::payload::{Names, Payloads, Record};

/// Bytes of one chunk.
pub const CHUNK: usize = 64 << 10;

/// Bytes of a direction, metadata and messages, up to which it is packed.
pub const PACKED: usize = 8 << 10;

/// A call that has ended, and is to be kept.
pub struct Facts<'a> {
    pub number: u64,
    pub model_id: &'a str,
    pub vmodel_id: &'a str,
    pub method: &'a str,
    pub code: Code,
    pub arrived: Instant,
    pub ended: Instant,
    pub request: &'a Heard,
    pub response: &'a Heard,
}

impl Facts<'_> {
    /// How many payloads it has; a response without a message is one, too: it has the status.
    pub fn payloads(&self) -> usize {
        self.request.messages() + self.response.messages().max(1)
    }

    /// Bytes of its messages.
    pub fn bytes(&self) -> usize {
        self.request.kept() + self.response.kept()
    }

    fn parts(&self) -> [&[u8]; 5] {
        let names = [self.model_id, self.vmodel_id, self.method].map(str::as_bytes);
        [names[0], names[1], names[2], self.request.copied(), self.response.copied()]
    }
}

struct Call {
    number: u64,
    arrived: Instant,
    ended: Instant,
    code: Code,
    /// Where the names and both directions end; they begin where the call before this one ends.
    ends: [u32; 5],
    /// Bytes of metadata in each direction.
    heads: [u32; 2],
    /// Payloads of this call and of all before it.
    payloads: u32,
}

pub struct Chunk {
    payloads: Arc<Payloads>,
    bytes: Vec<u8>,
    calls: Vec<Call>,
    /// Bytes of messages.
    counted: usize,
    /// One moment by both clocks; in epoch seconds by the second.
    moment: (Instant, f64),
}

impl Chunk {
    pub fn new(payloads: &Arc<Payloads>) -> Chunk {
        Chunk {
            payloads: Arc::clone(payloads),
            bytes: payloads.spare_chunk(),
            calls: Vec::with_capacity(CHUNK >> 10),
            counted: 0,
            moment: (Instant::now(), epoch_s()),
        }
    }

    /// How many payloads it has.
    pub fn len(&self) -> usize {
        self.calls.last().map_or(0, |call| call.payloads as usize)
    }

    pub fn has_room(&self, facts: &Facts<'_>) -> bool {
        self.bytes.len() + facts.parts().iter().map(|part| part.len()).sum::<usize>() <= CHUNK
    }

    /// Puts a call in for which there is room. Its bytes have been reserved.
    pub fn put(&mut self, facts: &Facts<'_>) {
        // All are below the size of a chunk.
        let small = |size: usize| u32::try_from(size).unwrap_or(u32::MAX);
        let payloads = small(self.len() + facts.payloads());
        let ends = facts.parts().map(|part| {
            self.bytes.extend_from_slice(part);
            small(self.bytes.len())
        });
        self.counted += facts.bytes();
        self.calls.push(Call {
            number: facts.number,
            arrived: facts.arrived,
            ended: facts.ended,
            code: facts.code,
            ends,
            heads: [facts.request, facts.response].map(|heard| small(heard.head())),
            payloads,
        });
    }

    /// Nothing more comes: a chunk with little in it keeps no more memory than that.
    pub fn seal(mut self) -> Arc<Chunk> {
        if self.bytes.len() < CHUNK / 2 {
            let exact = self.bytes.as_slice().to_vec();
            self.payloads.spare(std::mem::replace(&mut self.bytes, exact));
            self.calls.shrink_to_fit();
        }
        Arc::new(self)
    }

    /// The call that has a payload, and which payloads it has.
    pub fn record(self: &Arc<Chunk>, payload: usize) -> Option<(Arc<Record>, Range<usize>)> {
        let at = self.calls.partition_point(|call| call.payloads as usize <= payload);
        let call = self.calls.get(at)?;
        let (start, first) = match at.checked_sub(1).and_then(|before| self.calls.get(before)) {
            Some(before) => (before.ends[4], before.payloads as usize),
            None => (0, 0),
        };
        let part = |part: usize| {
            let from = if part == 0 { start } else { call.ends[part - 1] };
            &self.bytes[from as usize..call.ends[part] as usize]
        };
        let name = |at| std::str::from_utf8(part(at)).unwrap_or_default();
        let heard = |at: usize| Heard::of(&self.payloads, part(3 + at), call.heads[at] as usize);
        let record = Record {
            number: call.number,
            process: self.payloads.process,
            names: Names::new(name(0), name(1), name(2)),
            code: call.code,
            arrived: self.epoch_s(call.arrived),
            ended: self.epoch_s(call.ended),
            request: heard(0),
            response: heard(1),
            chunk: Some(Arc::clone(self)),
        };
        Some((Arc::new(record), first..call.payloads as usize))
    }

    fn epoch_s(&self, at: Instant) -> f64 {
        let (moment, epoch_s) = self.moment;
        epoch_s + at.saturating_duration_since(moment).as_secs_f64()
            - moment.saturating_duration_since(at).as_secs_f64()
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        self.payloads.release(self.counted);
        self.payloads.spare(std::mem::take(&mut self.bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frames::framed;
    use crate::heard::Message;
    use http::HeaderMap;
    use proptest::prelude::*;
    use std::time::Duration;

    fn heard(payloads: &Arc<Payloads>, value: &str, sizes: &[usize]) -> Box<Heard> {
        let mut heard = Heard::reused(payloads);
        let mut headers = HeaderMap::new();
        headers.insert("of", value.parse().unwrap());
        heard.put_head(&headers);
        sizes.iter().for_each(|&size| heard.put(&framed(&vec![7; size])));
        heard
    }

    fn sizes_of(heard: &Heard) -> Vec<usize> {
        let size = |at| match heard.message(at).ok().unwrap() {
            Message::Pieces(pieces, _) => {
                assert!(pieces.iter().all(|piece| piece.iter().all(|byte| *byte == 7)));
                pieces.iter().map(|piece| piece.len()).sum()
            }
            _ => unreachable!("what is packed is neither shared nor compressed"),
        };
        (0..heard.messages()).map(size).collect()
    }

    proptest! {
        #[test]
        fn calls_come_back_as_they_were(
            calls in prop::collection::vec((prop::collection::vec(0_usize..300, 1..3), 0_usize..300), 1..20),
        ) {
            let payloads = Arc::new(Payloads::new(usize::MAX, 1 << 20));
            let mut chunk = Chunk::new(&payloads);
            let arrived = Instant::now();
            for (number, (requests, answer)) in calls.iter().enumerate() {
                let (request, response) =
                    (heard(&payloads, "request", requests), heard(&payloads, "response", &[*answer]));
                let (model, ended) = (format!("m{number}"), arrived + Duration::from_millis(number as u64));
                let facts = Facts {
                    number: number as u64, model_id: &model, vmodel_id: "v", method: "s/m", code: Code::OK,
                    arrived, ended, request: &request, response: &response,
                };
                prop_assert!(chunk.has_room(&facts) && payloads.reserve(facts.bytes()));
                chunk.put(&facts);
                request.reuse();
                response.reuse();
            }
            let (all, chunk) = (chunk.len(), chunk.seal());
            let mut next = 0;
            for (number, (requests, answer)) in calls.iter().enumerate() {
                let (record, at) = chunk.record(next).unwrap();
                prop_assert_eq!((record.number, at), (number as u64, next..next + requests.len() + 1));
                prop_assert_eq!(record.names.model_id(), format!("m{number}"));
                prop_assert_eq!((record.names.vmodel_id(), record.names.method()), ("v", "s/m"));
                prop_assert!((record.ended - record.arrived - number as f64 / 1e3).abs() < 1e-5);
                prop_assert_eq!(&sizes_of(&record.request), requests);
                prop_assert_eq!(sizes_of(&record.response), [*answer]);
                prop_assert_eq!(record.request.metadata().next(), Some(("of", &b"request"[..])));
                prop_assert_eq!(record.response.metadata().next(), Some(("of", &b"response"[..])));
                next += requests.len() + 1;
            }
            prop_assert_eq!(next, all);
            prop_assert!(chunk.record(next).is_none());
            let (record, _) = chunk.record(0).unwrap();
            drop(chunk);
            prop_assert!(payloads.held() > 0);
            drop(record);
            prop_assert_eq!(payloads.held(), 0);
        }
    }
}
