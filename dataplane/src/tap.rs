//! Which calls leave their messages behind for those who process payloads, and for whom.

use std::collections::HashMap;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use crate::body::{Piece, RequestBody};
use crate::client::Client;
use crate::clock::epoch_s;
use crate::grpc::Code;
use crate::heard::Heard;
use crate::packed::Facts;
use crate::payload::{Names, Queue, Record};
use crate::stream::Call;

/// One who processes payloads, and of which calls.
pub struct Tap {
    pub queue: Arc<Queue>,
    /// Full names; empty for any.
    pub methods: Vec<Box<str>>,
    /// The share of calls, as a part of all numbers of 64 bits.
    pub share: u64,
}

impl Tap {
    fn wants(&self, method: &str, draw: u64) -> bool {
        draw <= self.share && (self.methods.is_empty() || self.methods.iter().any(|wanted| **wanted == *method))
    }
}

#[derive(Default)]
pub struct Taps {
    /// Of calls of any model, or of none.
    everywhere: Vec<Arc<Tap>>,
    /// By the id of a model or vmodel.
    by_id: HashMap<Box<str>, Vec<Arc<Tap>>>,
}

impl Taps {
    /// Adds one for calls of these models and vmodels, or of any where there are none.
    pub fn add(&mut self, tap: Tap, ids: Vec<String>) {
        let tap = Arc::new(tap);
        if ids.is_empty() {
            self.everywhere.push(tap);
            return;
        }
        for id in ids {
            self.by_id.entry(id.into()).or_default().push(Arc::clone(&tap));
        }
    }

    /// Whether anyone may want the call. The model that a vmodel leads to may be unknown yet.
    fn may_want(&self, method: &str, draw: u64, (model_id, vmodel_id): (&str, &str)) -> bool {
        let wants = |taps: &Vec<Arc<Tap>>| taps.iter().any(|tap| tap.wants(method, draw));
        wants(&self.everywhere)
            || [model_id, vmodel_id].iter().any(|id| self.by_id.get(*id).is_some_and(wants))
            || (model_id.is_empty() && !vmodel_id.is_empty() && self.by_id.values().any(wants))
    }

    fn for_each(&self, method: &str, draw: u64, (model_id, vmodel_id): (&str, &str), mut found: impl FnMut(&Tap)) {
        self.everywhere.iter().filter(|tap| tap.wants(method, draw)).for_each(|tap| found(tap));
        let of = |id: &str| self.by_id.get(id).map_or(&[][..], Vec::as_slice);
        of(model_id).iter().filter(|tap| tap.wants(method, draw)).for_each(|tap| found(tap));
        let is_new = |tap: &Arc<Tap>| !of(model_id).iter().any(|other| Arc::ptr_eq(other, tap));
        of(vmodel_id).iter().filter(|tap| tap.wants(method, draw) && is_new(tap)).for_each(|tap| found(tap));
    }
}

/// A call whose messages are kept.
pub struct Tapping {
    number: u64,
}

impl Tapping {
    /// Begins to keep a call's messages, where anyone may want them.
    ///
    /// The ids are those that are known before the call; empty where none is.
    pub fn begin(call: &Call, ids: (&str, &str), body: &mut RequestBody<'_>, client: &mut Client) -> Option<Tapping> {
        let taps = call.policy.taps.as_ref()?;
        let payloads = &call.plane.payloads;
        let number = payloads.next_call();
        if !taps.may_want(call.method(), draw(payloads.process, number), ids) {
            return None;
        }
        let mut request = Heard::reused(payloads);
        request.put_head(&call.headers);
        body.let_hear(request);
        client.let_hear(Heard::reused(payloads));
        Some(Tapping { number })
    }

    /// Gives the messages to those who want them, now that the client has its answer.
    pub fn end(
        self,
        call: &Call,
        (model_id, vmodel_id): (&str, &str),
        code: Code,
        ended: Instant,
        body: &mut RequestBody<'_>,
        client: &mut Client,
    ) {
        // Where nobody was sent the request, as for an unknown model, it has not been read.
        let mut cx = Context::from_waker(Waker::noop());
        while let Poll::Ready(Ok(Piece::Chunk { last: false, .. })) = body.poll_next(&mut cx) {}
        let (Some(mut request), Some(mut response)) = (body.take_heard(), client.take_heard()) else { return };
        if request.messages() == 0 && request.lost().is_none() {
            // The client has gone before there was a request.
            return;
        }
        let Some(taps) = &call.policy.taps else { return };
        let payloads = &call.plane.payloads;
        let draw = draw(payloads.process, self.number);
        if request.is_small() && response.is_small() {
            let facts = Facts {
                number: self.number,
                model_id,
                vmodel_id,
                method: call.method(),
                code,
                arrived: call.arrived,
                ended,
                request: &request,
                response: &response,
            };
            taps.for_each(call.method(), draw, (model_id, vmodel_id), |tap| {
                tap.queue.pack(&facts, payloads, &call.plane.hub.wake);
            });
            request.reuse();
            response.reuse();
            return;
        }
        request.settle();
        response.settle();
        let epoch_s = epoch_s();
        let record = Arc::new(Record {
            number: self.number,
            process: payloads.process,
            names: Names::new(model_id, vmodel_id, call.method()),
            code,
            arrived: epoch_s - call.arrived.elapsed().as_secs_f64(),
            ended: epoch_s - ended.elapsed().as_secs_f64(),
            request: *request,
            response: *response,
            chunk: None,
        });
        taps.for_each(call.method(), draw, (model_id, vmodel_id), |tap| {
            tap.queue.push(&record, payloads, &call.plane.hub.wake);
        });
    }
}

/// A number of a call that is as good as drawn by chance: the same for all taps, so that of two shares the smaller one's
/// calls are among the larger one's.
fn draw(seed: u64, number: u64) -> u64 {
    // SplitMix64.
    let mut bits = seed.wrapping_add(number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taps() -> Taps {
        let mut taps = Taps::default();
        let queue = |id| Arc::new(Queue::new(id, 10));
        taps.add(Tap { queue: queue(0), methods: vec!["s/a".into()], share: u64::MAX }, Vec::new());
        taps.add(Tap { queue: queue(1), methods: Vec::new(), share: u64::MAX }, vec!["m".into(), "v".into()]);
        taps.add(Tap { queue: queue(2), methods: Vec::new(), share: u64::MAX / 2 }, vec!["m".into()]);
        taps
    }

    fn found(method: &str, draw: u64, ids: (&str, &str)) -> Vec<u64> {
        let mut found = Vec::new();
        taps().for_each(method, draw, ids, |tap| found.push(tap.queue.id()));
        assert!(found.is_empty() || taps().may_want(method, draw, ids));
        assert!(found.is_empty() || ids.1.is_empty() || taps().may_want(method, draw, ("", ids.1)));
        found
    }

    #[test]
    fn each_tap_has_its_calls_once() {
        assert_eq!(found("s/a", 0, ("x", "")), [0]);
        assert_eq!(found("s/b", 0, ("x", "")), [0_u64; 0]);
        assert_eq!(found("s/b", 0, ("m", "v")), [1, 2]);
        assert_eq!(found("s/b", u64::MAX, ("m", "")), [1]);
        assert_eq!(found("s/b", 0, ("x", "v")), [1]);
    }

    #[test]
    fn shares_are_kept() {
        let share = u64::MAX / 10;
        let drawn = (0..100_000).filter(|&number| draw(7, number) <= share).count();
        assert!((9_500..10_500).contains(&drawn), "{drawn}");
    }
}
