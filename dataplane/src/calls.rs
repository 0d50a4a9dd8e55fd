//! Calls that Python answers itself: whole messages in, whole messages out.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::grpc::Status;
use crate::journal::Context;
use crate::lock::lock;
use crate::trace_context::SpanContext;
use crate::wake::Wake;

/// A call that waits for Python.
pub struct Incoming {
    pub method: String,
    pub message: Bytes,
    pub context: Context,
    pub trace: Option<SpanContext>,
}

pub enum Reply {
    Message(Bytes),
    Status(Status),
}

#[derive(Default)]
struct State {
    incoming: Vec<(u64, Incoming)>,
    pending: HashMap<u64, oneshot::Sender<Reply>>,
}

#[derive(Default)]
pub struct Calls {
    next: AtomicU64,
    state: Mutex<State>,
}

impl Calls {
    /// Hands a call to Python. Dropping the `Awaited` withdraws it.
    pub fn submit(&self, call: Incoming, wake: &Wake) -> Awaited<'_> {
        let token = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = oneshot::channel();
        let mut state = lock(&self.state);
        state.pending.insert(token, sender);
        let first = state.incoming.is_empty();
        state.incoming.push((token, call));
        drop(state);
        if first {
            wake.wake();
        }
        Awaited { calls: self, token, receiver }
    }

    /// The calls since the last time, those left out that nobody waits for any more.
    pub fn take(&self) -> Vec<(u64, Incoming)> {
        let mut state = lock(&self.state);
        let mut incoming = std::mem::take(&mut state.incoming);
        incoming.retain(|(token, _)| state.pending.contains_key(token));
        incoming
    }

    /// Answers a call; does nothing if its caller has given up.
    pub fn answer(&self, token: u64, reply: Reply) {
        let sender = lock(&self.state).pending.remove(&token);
        if let Some(sender) = sender {
            // One who has just given up needs no answer.
            let _ = sender.send(reply);
        }
    }
}

/// A call whose answer is awaited.
pub struct Awaited<'a> {
    calls: &'a Calls,
    token: u64,
    receiver: oneshot::Receiver<Reply>,
}

impl Awaited<'_> {
    /// None where the data plane is being closed.
    pub async fn reply(mut self) -> Option<Reply> {
        (&mut self.receiver).await.ok()
    }
}

impl Drop for Awaited<'_> {
    fn drop(&mut self) {
        lock(&self.calls.state).pending.remove(&self.token);
    }
}
