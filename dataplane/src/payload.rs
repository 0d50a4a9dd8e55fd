//! Payloads on their way to Python: what calls leave behind, in a queue for each who processes them.

use std::collections::VecDeque;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use crate::body::Budget;
use crate::grpc::Code;
use crate::heard::Heard;
use crate::lock::lock;
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
}

impl Payloads {
    pub fn new(most_bytes: usize, max_message_bytes: usize) -> Payloads {
        Payloads {
            budget: Budget { used: AtomicUsize::new(0), most: most_bytes },
            max_message_bytes,
            process: RandomState::new().build_hasher().finish(),
            calls: AtomicU64::new(0),
            queues: AtomicU64::new(0),
            ready: Mutex::default(),
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

    /// The queues that have what was asked for since the last time.
    pub fn take_ready(&self) -> Vec<u64> {
        std::mem::take(&mut *lock(&self.ready))
    }
}

/// What one call left behind.
pub struct Record {
    pub number: u64,
    pub process: u64,
    pub model_id: Box<str>,
    pub vmodel_id: Box<str>,
    pub method: Box<str>,
    pub code: Code,
    /// Epoch seconds.
    pub arrived: f64,
    pub ended: f64,
    pub request: Heard,
    pub response: Heard,
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

#[derive(Default)]
struct State {
    records: VecDeque<Arc<Record>>,
    /// Payloads of the first record that have been taken.
    taken: usize,
    payloads: usize,
    /// Python is to be told once so many wait; 0 where it is not.
    wanted: usize,
    closed: bool,
    lost: [u64; Loss::ALL.len()],
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
            state.lost[loss as usize] += count as u64;
        }
        if state.closed {
            state.lost[Loss::Closed as usize] += more as u64;
            return;
        }
        // A stream of more messages than there is room for is taken by a queue that is empty.
        if state.payloads > 0 && state.payloads + more > self.capacity {
            state.lost[Loss::Queue as usize] += more as u64;
            return;
        }
        if more == 0 {
            return;
        }
        state.records.push_back(Arc::clone(record));
        state.payloads += more;
        let told = state.wanted > 0 && state.payloads >= state.wanted;
        if told {
            state.wanted = 0;
        }
        drop(state);
        if told {
            lock(&payloads.ready).push(self.id);
            wake.wake();
        }
    }

    /// Has Python told once so many wait. False, and no more, where they do.
    pub fn arm(&self, least: usize) -> bool {
        let mut state = lock(&self.state);
        let waits = state.payloads < least;
        state.wanted = if waits { least } else { 0 };
        waits
    }

    /// The oldest payloads, at most so many: each as its call's record and its place there.
    pub fn take(&self, most: usize) -> Vec<(Arc<Record>, usize)> {
        let mut state = lock(&self.state);
        let mut found = Vec::with_capacity(most.min(state.payloads));
        while found.len() < most {
            let Some(record) = state.records.front().map(Arc::clone) else { break };
            let all = record.payloads();
            let until = all.min(state.taken + most - found.len());
            found.extend((state.taken..until).map(|at| (Arc::clone(&record), at)));
            state.taken = until;
            if until == all {
                state.records.pop_front();
                state.taken = 0;
            }
        }
        state.payloads -= found.len();
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
        Arc::new(Record {
            number,
            process: payloads.process,
            model_id: "m".into(),
            vmodel_id: "".into(),
            method: "s/m".into(),
            code: Code::OK,
            arrived: 0.0,
            ended: 0.0,
            request,
            response: Heard::new(payloads),
        })
    }

    fn numbers(taken: &[(Arc<Record>, usize)]) -> Vec<(u64, usize)> {
        taken.iter().map(|(record, at)| (record.number, *at)).collect()
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
        assert_eq!(queue.take(9).len(), 4);
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
