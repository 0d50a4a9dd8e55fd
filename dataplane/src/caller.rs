//! Calls that Python makes of other servers: whole messages out, whole messages back.
//!
//! A thread of its own runs them, so that they go on after the listeners are closed and take no turn of a request.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use http::uri::Authority;
use tokio::sync::{Notify, mpsc};
use tokio::task::AbortHandle;

use crate::address::Address;
use crate::endpoint::{Endpoint, EndpointKind, Manner};
use crate::grpc::Status;
use crate::lock::lock;
use crate::talk::talk;
use crate::unary::{Order, answer};
use crate::wake::Wake;

/// What a server said; of a stream, there may be more to come until it says how it ended.
pub struct Answer {
    pub token: u64,
    pub said: Said,
}

pub enum Said {
    /// A unary call's reply, its last word, or one message of a stream.
    Message(Bytes),
    /// How a stream, or a unary call without a reply, ended.
    End(Status),
}

enum Command {
    Call(u64, Box<Order>),
    Open(u64, Box<Order>, mpsc::UnboundedReceiver<Bytes>),
    Cancel(u64),
    Stop,
}

/// Messages that wait for Python to take them before no more are read from streams.
const MOST_WAITING: usize = 4096;

/// What the thread and Python share.
struct Shared {
    wake: Wake,
    answers: Mutex<Vec<Answer>>,
    commands: Mutex<Vec<Command>>,
    /// Told when there are commands for the thread to take.
    called: Notify,
    /// Told when Python has taken the answers.
    taken: Notify,
}

impl Shared {
    fn push(&self, answer: Answer) {
        let mut answers = lock(&self.answers);
        let first = answers.is_empty();
        answers.push(answer);
        drop(answers);
        if first {
            self.wake.wake();
        }
    }

    /// Waits until Python has taken enough.
    async fn room(&self) {
        loop {
            let taken = self.taken.notified();
            if lock(&self.answers).len() < MOST_WAITING {
                return;
            }
            taken.await;
        }
    }
}

pub struct Caller {
    next: AtomicU64,
    connect_timeout: Duration,
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Caller {
    /// Starts the thread.
    pub fn new(connect_timeout: Duration) -> io::Result<Caller> {
        let shared = Arc::new(Shared {
            wake: Wake::new()?,
            answers: Mutex::default(),
            commands: Mutex::default(),
            called: Notify::new(),
            taken: Notify::new(),
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let calls = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("mesh-calls".to_owned()).spawn(move || {
            runtime.block_on(run(calls));
            // Calls under way are dropped here, which resets their streams.
            runtime.shutdown_timeout(Duration::from_millis(100));
        })?;
        Ok(Caller { next: AtomicU64::new(0), connect_timeout, shared, thread: Mutex::new(Some(thread)) })
    }

    pub fn wake(&self) -> &Wake {
        &self.shared.wake
    }

    /// Somewhere to call; connected to when it is first called.
    pub fn server(
        &self,
        address: Address,
        authority: Option<Authority>,
        ping_interval: Option<Duration>,
    ) -> Arc<Endpoint> {
        let manner = Manner { shards: 1, connect_timeout: self.connect_timeout, ping_interval, authority };
        Endpoint::new(0, EndpointKind::Server, "server", address, manner)
    }

    /// Takes a call, which begins with the next `flush`; its answer comes under the token, unless it is cancelled or
    /// the caller closed before.
    pub fn call(&self, order: Order) -> u64 {
        let token = self.next.fetch_add(1, Ordering::Relaxed);
        lock(&self.shared.commands).push(Command::Call(token, Box::new(order)));
        token
    }

    /// As `call`, a stream in both directions, whose messages go by the sender.
    pub fn open(&self, order: Order) -> (u64, mpsc::UnboundedSender<Bytes>) {
        let token = self.next.fetch_add(1, Ordering::Relaxed);
        let (outgoing, messages) = mpsc::unbounded_channel();
        lock(&self.shared.commands).push(Command::Open(token, Box::new(order), messages));
        (token, outgoing)
    }

    /// Ends a call, for whose answer nobody waits any more.
    pub fn cancel(&self, token: u64) {
        lock(&self.shared.commands).push(Command::Cancel(token));
        self.flush();
    }

    /// Has the thread begin the calls that it was given: waking it once for many costs less.
    pub fn flush(&self) {
        self.shared.called.notify_one();
    }

    /// The answers since the last time.
    pub fn take(&self) -> Vec<Answer> {
        self.shared.wake.clear();
        let answers = std::mem::take(&mut *lock(&self.shared.answers));
        if answers.len() >= MOST_WAITING {
            self.shared.taken.notify_waiters();
        }
        answers
    }

    /// Ends all calls and the thread.
    pub fn close(&self) {
        lock(&self.shared.commands).push(Command::Stop);
        self.flush();
        if let Some(thread) = lock(&self.thread).take() {
            // A panic there has been reported by the thread itself.
            let _ = thread.join();
        }
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        self.close();
    }
}

async fn run(shared: Arc<Shared>) {
    let calls: Arc<Mutex<HashMap<u64, AbortHandle>>> = Arc::default();
    loop {
        shared.called.notified().await;
        let commands = std::mem::take(&mut *lock(&shared.commands));
        for command in commands {
            match command {
                Command::Call(token, order) => {
                    let (shared, under_way) = (Arc::clone(&shared), Arc::clone(&calls));
                    let call = tokio::spawn(async move {
                        let said = match answer(*order).await {
                            Ok(message) => Said::Message(message),
                            Err(status) => Said::End(status),
                        };
                        lock(&under_way).remove(&token);
                        shared.push(Answer { token, said });
                    });
                    // It has not run yet, since there is only this thread.
                    lock(&calls).insert(token, call.abort_handle());
                }
                Command::Open(token, order, outgoing) => {
                    let (shared, under_way) = (Arc::clone(&shared), Arc::clone(&calls));
                    let call = tokio::spawn(async move {
                        let take = |message| {
                            shared.push(Answer { token, said: Said::Message(message) });
                            shared.room()
                        };
                        let status = talk(*order, outgoing, take).await;
                        lock(&under_way).remove(&token);
                        shared.push(Answer { token, said: Said::End(status) });
                    });
                    lock(&calls).insert(token, call.abort_handle());
                }
                Command::Cancel(token) => {
                    if let Some(call) = lock(&calls).remove(&token) {
                        call.abort();
                    }
                }
                Command::Stop => return,
            }
        }
    }
}
