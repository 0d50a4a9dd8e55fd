//! The client's side of a stream: its answer, and whether it still wants one.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::SendStream;
use h2::server::SendResponse;
use http::{HeaderMap, Response};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::answer::Answer;
use crate::grpc::{Code, Status};
use crate::heard::Heard;

/// A client resets the stream at its deadline, which is a little earlier than here: this clock began to run when the
/// request came in, with what it had left rounded up.
const DEADLINE_SLACK: Duration = Duration::from_millis(20);

/// Why a stream ends before its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The client reset the stream or its connection ended.
    Gone,
    Expired,
}

enum Responding {
    Waiting(SendResponse<Bytes>),
    Streaming(SendStream<Bytes>),
    /// There is nobody to send it to.
    Kept {
        has_head: bool,
    },
    Done,
}

pub struct Client {
    responding: Responding,
    pub deadline: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
    /// What was answered, where that is wanted.
    answer: Option<Box<Answer>>,
    heard: Option<Box<Heard>>,
}

impl Client {
    pub fn new(respond: SendResponse<Bytes>, deadline: Option<Instant>) -> Client {
        let timer = deadline.map(|deadline| Box::pin(sleep_until(deadline)));
        Client { responding: Responding::Waiting(respond), deadline, timer, answer: None, heard: None }
    }

    /// Stands in for a client: keeps the answer. Whoever waits for it ends it.
    pub fn keeping(deadline: Option<Instant>, answer: Answer) -> Client {
        let responding = Responding::Kept { has_head: false };
        Client { responding, deadline, timer: None, answer: Some(Box::new(answer)), heard: None }
    }

    /// Keeps what is answered, besides sending it.
    pub fn keep_answer(&mut self, answer: Answer) {
        self.answer = Some(Box::new(answer));
    }

    /// What was answered, if it was kept.
    pub fn take_answer(&mut self) -> Option<Box<Answer>> {
        self.answer.take()
    }

    /// Has what is answered heard.
    pub fn let_hear(&mut self, heard: Box<Heard>) {
        self.heard = Some(heard);
    }

    pub fn take_heard(&mut self) -> Option<Box<Heard>> {
        self.heard.take()
    }

    /// Ready once the deadline has passed or the client has gone.
    pub fn poll_ended(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        let reset = match &mut self.responding {
            Responding::Waiting(respond) => respond.poll_reset(cx).is_ready(),
            Responding::Streaming(send) => send.poll_reset(cx).is_ready(),
            Responding::Kept { .. } | Responding::Done => false,
        };
        if reset {
            return Poll::Ready(Ended::Gone);
        }
        match &mut self.timer {
            Some(timer) => timer.as_mut().poll(cx).map(|()| Ended::Expired),
            None => Poll::Pending,
        }
    }

    /// Waits for `future`, unless the stream ends before.
    pub async fn unless_ended<F: Future>(&mut self, future: F) -> Result<F::Output, Ended> {
        let mut future = pin!(future);
        poll_fn(|cx| {
            if let Poll::Ready(value) = future.as_mut().poll(cx) {
                return Poll::Ready(Ok(value));
            }
            self.poll_ended(cx).map(Err)
        })
        .await
    }

    /// Sends the answer's head. Errors mean that the client is gone, which the next poll tells.
    pub fn head(&mut self, head: Response<()>, end: bool) {
        if let Some(answer) = &mut self.answer {
            answer.put_head(&head);
        }
        // A head that is all there is has the status in it, and no metadata before that.
        if let Some(heard) = self.heard.as_mut().filter(|_| !end) {
            heard.put_head(head.headers());
        }
        self.responding = match std::mem::replace(&mut self.responding, Responding::Done) {
            Responding::Waiting(mut respond) => match respond.send_response(head, end) {
                Ok(send) if !end => Responding::Streaming(send),
                _ => Responding::Done,
            },
            Responding::Kept { .. } if !end => Responding::Kept { has_head: true },
            Responding::Kept { .. } => Responding::Done,
            answered => answered,
        };
    }

    /// Waits until the client takes some of `bytes`; ready with how much, or None when it is gone.
    pub fn poll_capacity(&mut self, cx: &mut Context<'_>, wanted: usize) -> Poll<Option<usize>> {
        match &mut self.responding {
            Responding::Streaming(send) => poll_send_capacity(send, cx, wanted),
            Responding::Kept { .. } if !self.answer.as_ref().is_some_and(|answer| answer.is_given_up()) => {
                Poll::Ready(Some(wanted))
            }
            _ => Poll::Ready(None),
        }
    }

    /// Sends a part of the answer; false when the client is gone.
    pub fn data(&mut self, bytes: Bytes) -> bool {
        if let Some(answer) = &mut self.answer {
            answer.put_data(&bytes);
        }
        if let Some(heard) = &mut self.heard {
            heard.put(&bytes);
        }
        match &mut self.responding {
            Responding::Streaming(send) => send.send_data(bytes, false).is_ok(),
            Responding::Kept { .. } => true,
            _ => false,
        }
    }

    /// Ends an answer whose head was sent.
    pub fn trailers(&mut self, trailers: HeaderMap) {
        if let Some(answer) = &mut self.answer {
            answer.put_trailers(&trailers);
        }
        if let Responding::Streaming(mut send) = std::mem::replace(&mut self.responding, Responding::Done) {
            // It fails only where the client is gone.
            let _ = send.send_trailers(trailers);
        }
    }

    /// Ends the stream with a status of our own, whatever was sent before.
    pub fn status(&mut self, status: &Status) {
        match self.responding {
            Responding::Waiting(_) | Responding::Kept { has_head: false } => self.head(status.trailers_only(), true),
            _ => self.trailers(status.trailers()),
        }
    }

    /// Ends a stream that has no answer. Returns the status that it counts as.
    pub fn end(&mut self, ended: Ended) -> Code {
        match ended {
            Ended::Expired => {
                self.status(&Status::expired());
                Code::DEADLINE_EXCEEDED
            }
            Ended::Gone => {
                // Dropping what is left of it resets the stream.
                self.responding = Responding::Done;
                let expired = self.deadline.is_some_and(|deadline| deadline <= Instant::now() + DEADLINE_SLACK);
                if expired { Code::DEADLINE_EXCEEDED } else { Code::CANCELLED }
            }
        }
    }
}

/// Ready with how many of `wanted` bytes may be sent, or None when the stream is closed.
pub fn poll_send_capacity(send: &mut SendStream<Bytes>, cx: &mut Context<'_>, wanted: usize) -> Poll<Option<usize>> {
    send.reserve_capacity(wanted);
    loop {
        let capacity = send.capacity();
        if capacity > 0 {
            return Poll::Ready(Some(capacity.min(wanted)));
        }
        match ready!(send.poll_capacity(cx)) {
            Some(Ok(_)) => {}
            Some(Err(_)) | None => return Poll::Ready(None),
        }
    }
}
