//! Payloads on their way to Python: what calls leave behind, in a queue for each who processes them.

use std::collections::VecDeque;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use crate::body::Budget;
use crate::grpc::Code;
use crate::heard::Heard;
use crate::lock::lock;
use crate::packed::{CHUNK, Chunk, Facts};
use crate::wake::Wake;

/// Why a payload does not get to one who wants it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// The bytes of all payloads are as many as they may be.
    Bytes,
    /// The queue is full.
    Queue,
    /// A stream has more messages, or longer ones, than are kept of one call.
    Stream,
    /// The queue was closed.
    Closed,
}

impl Loss {
    pub const ALL: [Loss; 4] = [Loss::Bytes, Loss::Queue, Loss::Stream, Loss::Closed];

    pub fn name(self) -> &'static str {
        match self {
            Loss::Bytes => "bytes",
            Loss::Queue => "queue_full",
            Loss::Stream => "stream",
            Loss::Closed => "shutdown",
        }
    }
}

/// What all payloads of one data plane share.
pub struct Payloads {
    budget: Budget,
    pub max_message_bytes: usize,
    /// Tells the calls of this process from those of any other.
    pub process: u64,
    calls: AtomicU64,
    queues: AtomicU64,
    /// Queues to be looked at.
    ready: Mutex<Vec<u64>>,
    /// Memory of chunks that are gone, empty.
    spare: Mutex<Vec<Vec<u8>>>,
}

/// Chunks whose memory is kept for others, at most.
const MAX_SPARE: usize = 64;

impl Payloads {
    pub fn new(most_bytes: usize, max_message_bytes: usize) -> Payloads {
        Payloads {
            budget: Budget { used: AtomicUsize::new(0), most: most_bytes },
            max_message_bytes,
            process: RandomState::new().build_hasher().finish(),
            calls: AtomicU64::new(0),
            queues: AtomicU64::new(0),
            ready: Mutex::default(),
            spare: Mutex::default(),
        }
    }

    /// The number of a call that is to be kept or not.
    pub fn next_call(&self) -> u64 {
        self.calls.fetch_add(1, Ordering::Relaxed)
    }

    pub fn next_queue(&self) -> u64 {
        self.queues.fetch_add(1, Ordering::Relaxed)
    }

    /// Bytes of messages that are kept.
    pub fn held(&self) -> usize {
        self.budget.used.load(Ordering::Relaxed)
    }

    /// Counts bytes that are to be kept. False where there is no room for them.
    pub fn reserve(&self, bytes: usize) -> bool {
        let used = self.budget.used.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if used > self.budget.most {
            self.release(bytes);
        }
        used <= self.budget.most
    }

    pub fn release(&self, bytes: usize) {
        self.budget.used.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Memory for a chunk.
    pub fn spare_chunk(&self) -> Vec<u8> {
        lock(&self.spare).pop().unwrap_or_else(|| Vec::with_capacity(CHUNK))
    }

    /// Keeps a chunk's memory for another one.
    pub fn spare(&self, mut bytes: Vec<u8>) {
        bytes.clear();
        let mut spare = lock(&self.spare);
        if bytes.capacity() >= CHUNK && spare.len() < MAX_SPARE {
            spare.push(bytes);
        }
    }

    /// The queues that have what was asked for since the last time.
    pub fn take_ready(&self) -> Vec<u64> {
        std::mem::take(&mut *lock(&self.ready))
    }
}

/// Ids and the method of a call, in one piece of memory.
pub struct Names {
    text: Box<str>,
    model_id: usize,
    vmodel_id: usize,
}

impl Names {
    pub fn new(model_id: &str, vmodel_id: &str, method: &str) -> Names {
        let mut text = String::with_capacity(model_id.len() + vmodel_id.len() + method.len());
        for name in [model_id, vmodel_id, method] {
            text.push_str(name);
        }
        Names { text: text.into(), model_id: model_id.len(), vmodel_id: vmodel_id.len() }
    }

    pub fn model_id(&self) -> &str {
        &self.text[..self.model_id]
    }

    pub fn vmodel_id(&self) -> &str {
        &self.text[self.model_id..self.model_id + self.vmodel_id]
    }

    pub fn method(&self) -> &str {
        &self.text[self.model_id + self.vmodel_id..]
    }
}

/// What one call left behind.
pub struct Record {
    pub number: u64,
    pub process: u64,
    pub names: Names,
    pub code: Code,
    /// Epoch seconds.
    pub arrived: f64,
    pub ended: f64,
    pub request: Heard,
    pub response: Heard,
    /// Which counts its bytes, where they do not count themselves.
    pub chunk: Option<Arc<Chunk>>,
}

impl Record {
    pub fn requests(&self) -> usize {
        self.request.messages()
    }

    /// A response without a message is a payload, too: it has the status.
    pub fn responses(&self) -> usize {
        match self.response.messages() {
            0 if self.response.lost().is_none() => 1,
            messages => messages,
        }
    }

    pub fn payloads(&self) -> usize {
        self.requests() + self.responses()
    }
}

/// Payloads that wait for one who processes them.
pub struct Queue {
    id: u64,
    /// Payloads that may wait.
    capacity: usize,
    state: Mutex<State>,
}

/// Where payloads are.
#[derive(Clone)]
pub enum Place {
    /// Of one call.
    Record(Arc<Record>),
    /// Of many small ones.
    Chunk(Arc<Chunk>),
}

impl Place {
    /// The call that has a payload, and which payloads it has.
    pub fn record(&self, payload: usize) -> Option<(Arc<Record>, Range<usize>)> {
        match self {
            Place::Record(record) => Some((Arc::clone(record), 0..record.payloads())),
            Place::Chunk(chunk) => chunk.record(payload),
        }
    }
}

/// Some payloads of one place: which ones, of all that it has.
///
/// To hand these on touches no record, of which there may be thousands that no cache has.
pub struct Part {
    pub place: Place,
    pub payloads: Range<usize>,
}

#[derive(Default)]
struct State {
    parts: VecDeque<Part>,
    /// What comes after those, and grows.
    chunk: Option<Chunk>,
    payloads: usize,
    /// Python is to be told once so many wait; 0 where it is not.
    wanted: usize,
    closed: bool,
    lost: [u64; Loss::ALL.len()],
}

impl State {
    fn lose(&mut self, loss: Loss, payloads: usize) {
        self.lost[loss as usize] += payloads as u64;
    }

    /// Whether there is room for so many payloads of a call; otherwise they are counted as lost.
    fn admits(&mut self, payloads: usize, capacity: usize) -> bool {
        // A stream of more messages than there is room for is taken by a queue that is empty.
        let full = self.payloads > 0 && self.payloads + payloads > capacity;
        if self.closed {
            self.lose(Loss::Closed, payloads);
        } else if full {
            self.lose(Loss::Queue, payloads);
        }
        !self.closed && !full
    }

    /// Counts more payloads. True where Python is to be told.
    fn grew(&mut self, payloads: usize) -> bool {
        self.payloads += payloads;
        let told = self.wanted > 0 && self.payloads >= self.wanted;
        if told {
            self.wanted = 0;
        }
        told
    }

    fn seal(&mut self) {
        if let Some(chunk) = self.chunk.take() {
            let payloads = 0..chunk.len();
            self.parts.push_back(Part { place: Place::Chunk(chunk.seal()), payloads });
        }
    }
}

impl Queue {
    pub fn new(id: u64, capacity: usize) -> Queue {
        Queue { id, capacity, state: Mutex::default() }
    }

    pub fn id(&self) -> u64 {
        self.id
    }

    /// Puts a call's payloads in, or counts them as lost.
    pub fn push(&self, record: &Arc<Record>, payloads: &Payloads, wake: &Wake) {
        let more = record.payloads();
        let mut state = lock(&self.state);
        for (loss, count) in [record.request.lost(), record.response.lost()].into_iter().flatten() {
            state.lose(loss, count);
        }
        if !state.admits(more, self.capacity) || more == 0 {
            return;
        }
        state.seal();
        state.parts.push_back(Part { place: Place::Record(Arc::clone(record)), payloads: 0..more });
        if state.grew(more) {
            drop(state);
            self.tell(payloads, wake);
        }
    }

    /// Puts a copy of a small call's payloads in, or counts them as lost.
    pub fn pack(&self, facts: &Facts<'_>, payloads: &Arc<Payloads>, wake: &Wake) {
        let more = facts.payloads();
        let mut state = lock(&self.state);
        if !state.admits(more, self.capacity) {
            return;
        }
        if !payloads.reserve(facts.bytes()) {
            return state.lose(Loss::Bytes, more);
        }
        if state.chunk.as_ref().is_some_and(|chunk| !chunk.has_room(facts)) {
            state.seal();
        }
        state.chunk.get_or_insert_with(|| Chunk::new(payloads)).put(facts);
        if state.grew(more) {
            drop(state);
            self.tell(payloads, wake);
        }
    }

    fn tell(&self, payloads: &Payloads, wake: &Wake) {
        lock(&payloads.ready).push(self.id);
        wake.wake();
    }

    /// Has Python told once so many wait. False, and no more, where they do.
    pub fn arm(&self, least: usize) -> bool {
        let mut state = lock(&self.state);
        let waits = state.payloads < least;
        state.wanted = if waits { least } else { 0 };
        waits
    }

    /// The oldest payloads, at most so many.
    pub fn take(&self, most: usize) -> Vec<Part> {
        let mut state = lock(&self.state);
        state.seal();
        if state.payloads <= most {
            state.payloads = 0;
            return std::mem::take(&mut state.parts).into();
        }
        let mut found = Vec::new();
        let mut left = most;
        while left > 0 {
            let Some(first) = state.parts.front_mut() else { break };
            if first.payloads.len() > left {
                let until = first.payloads.start + left;
                found.push(Part { place: first.place.clone(), payloads: first.payloads.start..until });
                first.payloads.start = until;
                left = 0;
            } else {
                left -= first.payloads.len();
                found.extend(state.parts.pop_front());
            }
        }
        state.payloads -= most - left;
        found
    }

    /// Takes nothing more; what waits stays to be taken.
    pub fn close(&self) {
        lock(&self.state).closed = true;
    }

    pub fn waiting(&self) -> usize {
        lock(&self.state).payloads
    }

    pub fn lost(&self) -> [u64; Loss::ALL.len()] {
        lock(&self.state).lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn record(payloads: &Arc<Payloads>, number: u64, messages: usize) -> Arc<Record> {
        let mut request = Heard::new(payloads);
        (0..messages).for_each(|_| request.put(&Bytes::from_static(&[0, 0, 0, 0, 1, 7])));
        request.settle();
        Arc::new(Record {
            number,
            process: payloads.process,
            names: Names::new("m", "", "s/m"),
            code: Code::OK,
            arrived: 0.0,
            ended: 0.0,
            request,
            response: Heard::new(payloads),
            chunk: None,
        })
    }

    fn numbers(taken: &[Part]) -> Vec<(u64, usize)> {
        let number = |part: &Part, at| {
            let (record, payloads) = part.place.record(at).unwrap();
            (record.number, at - payloads.start)
        };
        taken.iter().flat_map(|part| part.payloads.clone().map(move |at| number(part, at))).collect()
    }

    #[test]
    fn payloads_come_in_order_and_as_many_as_are_wanted() {
        let payloads = Arc::new(Payloads::new(1 << 20, 1 << 20));
        let (queue, wake) = (Queue::new(0, 100), Wake::new().unwrap());
        [(1, 2), (2, 0), (3, 1)].iter().for_each(|&(number, messages)| {
            queue.push(&record(&payloads, number, messages), &payloads, &wake);
        });
        assert_eq!(queue.waiting(), 6);
        assert_eq!(numbers(&queue.take(2)), [(1, 0), (1, 1)]);
        assert_eq!(numbers(&queue.take(2)), [(1, 2), (2, 0)]);
        assert_eq!(numbers(&queue.take(9)), [(3, 0), (3, 1)]);
        assert_eq!(queue.waiting(), 0);
        assert_eq!(payloads.held(), 0);
    }

    #[test]
    fn a_full_or_closed_queue_counts_what_it_does_not_take() {
        let payloads = Arc::new(Payloads::new(1 << 20, 1 << 20));
        let (queue, wake) = (Queue::new(0, 4), Wake::new().unwrap());
        (0..3).for_each(|number| queue.push(&record(&payloads, number, 1), &payloads, &wake));
        assert_eq!(queue.waiting(), 4);
        queue.close();
        queue.push(&record(&payloads, 4, 4), &payloads, &wake);
        assert_eq!(queue.lost(), [0, 2, 0, 5]);
        assert_eq!(numbers(&queue.take(9)).len(), 4);
    }

    #[test]
    fn python_is_told_once_there_are_as_many_as_it_asked_for() {
        let payloads = Arc::new(Payloads::new(1 << 20, 1 << 20));
        let (queue, wake) = (Queue::new(7, 100), Wake::new().unwrap());
        assert!(queue.arm(4));
        queue.push(&record(&payloads, 1, 1), &payloads, &wake);
        assert!(payloads.take_ready().is_empty());
        (2..5).for_each(|number| queue.push(&record(&payloads, number, 1), &payloads, &wake));
        assert_eq!(payloads.take_ready(), [7]);
        assert!(!queue.arm(8));
    }
}
