//! Asks on their way to Python, and its answers.
//!
//! The threads of the data plane push and wake a file descriptor; Python drains. Neither waits for the other.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use tokio::sync::oneshot;

use crate::grpc::Status;
use crate::journal::Context;
use crate::lock::lock;
use crate::trace_context::SpanContext;
use crate::wake::Wake;

/// Why the data plane asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    NoRoute,
    NotHere,
    Lost,
    Unreachable,
    Broken,
    Unavailable,
    Exhausted,
}

impl Reason {
    pub fn name(self) -> &'static str {
        match self {
            Reason::NoRoute => "no_route",
            Reason::NotHere => "not_here",
            Reason::Lost => "lost",
            Reason::Unreachable => "unreachable",
            Reason::Broken => "broken",
            Reason::Unavailable => "unavailable",
            Reason::Exhausted => "exhausted",
        }
    }
}

/// What Python is asked.
#[derive(Clone, Debug)]
pub struct Question {
    pub reason: Reason,
    pub model_id: String,
    pub is_vmodel: bool,
    /// The model that the vmodel's request was to go to.
    pub resolved_id: String,
    pub from_peer: bool,
    pub method: String,
    pub endpoint: i64,
    pub code: i32,
    pub message: String,
    pub attempt: u32,
    pub tried: Vec<u32>,
    pub balanced: bool,
    /// When the attempt that failed was sent.
    pub sent: Option<Instant>,
    pub deadline_ms: i64,
    pub context: Context,
    /// The span that waits for the answer.
    pub trace: Option<SpanContext>,
}

/// What Python answers.
#[derive(Clone, Debug)]
pub enum Answer {
    Route { model_id: String },
    Endpoint { endpoint: u32, model_id: String },
    Status(Status),
    Held,
}

#[derive(PartialEq, Eq, Hash, Clone)]
struct FirstAsk {
    model_id: String,
    is_vmodel: bool,
    resolved_id: String,
    from_peer: bool,
}

struct Pending {
    waiters: HashMap<u64, oneshot::Sender<Answer>>,
    first: Option<FirstAsk>,
    trace: Option<SpanContext>,
}

#[derive(Default)]
struct State {
    next: u64,
    events: Vec<(u64, Question)>,
    pending: HashMap<u64, Pending>,
    first: HashMap<FirstAsk, u64>,
}

pub struct Hub {
    pub wake: Wake,
    waiting: AtomicUsize,
    state: Mutex<State>,
}

impl Hub {
    pub fn new() -> std::io::Result<Hub> {
        Ok(Hub { wake: Wake::new()?, waiting: AtomicUsize::new(0), state: Mutex::default() })
    }

    /// Requests that wait for an answer.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Asks. A first ask for a model joins one that is already waiting. Dropping the `Waiter` withdraws it.
    pub fn ask(&self, question: Question) -> Waiter<'_> {
        let first = (question.reason == Reason::NoRoute && question.attempt == 0).then(|| FirstAsk {
            model_id: question.model_id.clone(),
            is_vmodel: question.is_vmodel,
            resolved_id: question.resolved_id.clone(),
            from_peer: question.from_peer,
        });
        let (sender, receiver) = oneshot::channel();
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let mut state = lock(&self.state);
        let number = state.next;
        state.next += 1;
        let joined = first.as_ref().and_then(|first| state.first.get(first).copied());
        let token = joined.unwrap_or(number);
        let (mut wake, mut of_other) = (false, None);
        match joined.and_then(|token| state.pending.get_mut(&token)) {
            Some(pending) => {
                pending.waiters.insert(number, sender);
                of_other = pending.trace;
            }
            None => {
                if let Some(first) = &first {
                    state.first.insert(first.clone(), token);
                }
                let waiters = HashMap::from([(number, sender)]);
                state.pending.insert(token, Pending { waiters, first, trace: question.trace });
                wake = state.events.is_empty();
                state.events.push((token, question));
            }
        }
        drop(state);
        if wake {
            self.wake.wake();
        }
        Waiter { hub: self, token, number, receiver, joined: of_other }
    }

    /// The asks since the last call, those left out that nobody waits for any more.
    pub fn take(&self) -> Vec<(u64, Question)> {
        self.wake.clear();
        let mut state = lock(&self.state);
        let mut events = std::mem::take(&mut state.events);
        events.retain(|(token, _)| state.pending.contains_key(token));
        events
    }

    /// Gives all who wait on `token` the answer; does nothing if there are none any more.
    pub fn answer(&self, token: u64, answer: &Answer) {
        let pending = {
            let mut state = lock(&self.state);
            let pending = state.pending.remove(&token);
            if let Some(first) = pending.as_ref().and_then(|pending| pending.first.as_ref()) {
                state.first.remove(first);
            }
            pending
        };
        let mut waiters: Vec<_> = pending.into_iter().flat_map(|pending| pending.waiters).collect();
        waiters.sort_unstable_by_key(|(number, _)| *number);
        for (_, sender) in waiters {
            // One who has just given up needs no answer.
            let _ = sender.send(answer.clone());
        }
    }
}

/// One request that waits for an answer.
pub struct Waiter<'a> {
    hub: &'a Hub,
    token: u64,
    number: u64,
    receiver: oneshot::Receiver<Answer>,
    /// The span of the ask that this one joined.
    pub joined: Option<SpanContext>,
}

impl Waiter<'_> {
    /// None where the data plane is being closed.
    pub async fn answer(mut self) -> Option<Answer> {
        (&mut self.receiver).await.ok()
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.hub.waiting.fetch_sub(1, Ordering::Relaxed);
        let mut state = lock(&self.hub.state);
        let Some(pending) = state.pending.get_mut(&self.token) else { return };
        pending.waiters.remove(&self.number);
        if pending.waiters.is_empty() {
            let pending = state.pending.remove(&self.token);
            if let Some(first) = pending.and_then(|pending| pending.first) {
                state.first.remove(&first);
            }
        }
    }
}
