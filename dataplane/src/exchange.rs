//! One attempt at a request: its bytes to an endpoint and the answer back, until one of them ends.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, Request, Response};

use crate::body::{BodyError, Piece, RequestBody};
use crate::client::{Client, Ended, poll_send_capacity};
use crate::compression::too_large;
use crate::endpoint::EndpointKind;
use crate::frames::{FrameScanner, TooLarge};
use crate::grpc::{Code, Status, message_of};
use crate::hub::Reason;
use crate::inject::Injector;
use crate::metadata::{NOT_HERE, OVERLOAD, strip_ours};
use crate::policy::StatusRule;

/// An answer without messages that has not been given to the client.
pub struct Held {
    head: Response<()>,
    trailers: Option<HeaderMap>,
}

impl Held {
    pub fn code(&self) -> Code {
        Code::of(self.trailers.as_ref().unwrap_or_else(|| self.head.headers()))
    }

    pub fn give(self, client: &mut Client) {
        match self.trailers {
            None => client.head(self.head, true),
            Some(trailers) => {
                client.head(self.head, false);
                client.trailers(trailers);
            }
        }
    }
}

/// How an attempt ended.
pub enum Outcome {
    /// The client has the whole answer.
    Answered { code: Code, response_bytes: u64 },
    /// The stream ended before its answer.
    Ended(Ended),
    /// The request itself is at fault, or its answer too large.
    Refused(Status),
    /// The endpoint certainly did not process the request. Where `is_over`, the connection takes no more.
    Unprocessed { why: String, is_over: bool },
    /// The connection ended before an answer.
    Broken(String),
    /// The peer has no copy.
    NotHere,
    /// The peer's copy has no room.
    Overloaded(Box<Held>),
    /// A status rule matched.
    Matched { reason: Reason, code: Code, message: String, held: Box<Held> },
}

impl Outcome {
    /// The status of the call as the endpoint's caller sees it; None where the endpoint did not process it.
    pub fn code(&self) -> Option<Code> {
        match self {
            Outcome::Answered { code, .. } | Outcome::Matched { code, .. } => Some(*code),
            Outcome::Ended(Ended::Gone) => Some(Code::CANCELLED),
            Outcome::Ended(Ended::Expired) => Some(Code::DEADLINE_EXCEEDED),
            Outcome::Refused(status) => Some(status.code),
            Outcome::Broken(_) => Some(Code::UNAVAILABLE),
            Outcome::Unprocessed { .. } | Outcome::NotHere | Outcome::Overloaded(_) => None,
        }
    }
}

/// What an attempt needs to know.
pub struct Rules<'a> {
    pub kind: EndpointKind,
    pub status_rules: &'a [StatusRule],
    pub max_message_bytes: usize,
}

/// Runs an attempt on the stream that `head` gives the connection and the request for.
///
/// What it takes is small, and the request never lives across an await: a request's task is copied when it is spawned.
pub async fn exchange(
    mut head: impl FnMut() -> (SendRequest<Bytes>, Request<()>),
    mut injector: Option<Box<Injector>>,
    rules: Rules<'_>,
    body: &mut RequestBody<'_>,
    client: &mut Client,
) -> Outcome {
    let opened = poll_fn(|cx| {
        let (sender, request) = head();
        Poll::Ready(Exchange::open(cx, sender, request, injector.take(), body))
    });
    match opened.await {
        Ok(mut exchange) => poll_fn(|cx| exchange.poll(cx, &rules, body, client)).await,
        Err(outcome) => outcome,
    }
}

/// An attempt under way.
struct Exchange {
    upload: Upload,
    download: Download,
}

impl Exchange {
    fn open(
        cx: &mut Context<'_>,
        mut sender: SendRequest<Bytes>,
        request: Request<()>,
        injector: Option<Box<Injector>>,
        body: &mut RequestBody<'_>,
    ) -> Result<Exchange, Outcome> {
        let mut upload = Upload { send: None, pending: Bytes::new(), last: false, injector };
        let response = upload.start(cx, &mut sender, request, body)?;
        Ok(Exchange { upload, download: Download::new(response) })
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        rules: &Rules<'_>,
        body: &mut RequestBody<'_>,
        client: &mut Client,
    ) -> Poll<Outcome> {
        if let Poll::Ready(outcome) = self.upload.poll(cx, body) {
            return Poll::Ready(outcome);
        }
        if let Poll::Ready(outcome) = self.download.poll(cx, rules, body, client) {
            return Poll::Ready(outcome);
        }
        client.poll_ended(cx).map(Outcome::Ended)
    }
}

/// The request on its way.
struct Upload {
    /// None once all is sent, or the other side wants no more.
    send: Option<SendStream<Bytes>>,
    pending: Bytes,
    /// `pending` is the end.
    last: bool,
    injector: Option<Box<Injector>>,
}

impl Upload {
    /// Opens the stream, with the first chunk if it is there already.
    ///
    /// A stream has no capacity before its head is written. Handing the first chunk over without waiting for it puts
    /// both into one write, which halves the wake-ups of a unary call.
    fn start(
        &mut self,
        cx: &mut Context<'_>,
        sender: &mut SendRequest<Bytes>,
        request: Request<()>,
        body: &mut RequestBody<'_>,
    ) -> Result<ResponseFuture, Outcome> {
        let first = match self.poll_piece(cx, body) {
            Poll::Ready(Ok(piece)) => Some(piece),
            Poll::Ready(Err(error)) => return Err(refusal(error)),
            Poll::Pending => None,
        };
        let empty = matches!(first, Some(Piece::End));
        let (response, mut send) = sender
            .send_request(request, empty)
            .map_err(|error| Outcome::Unprocessed { why: error.to_string(), is_over: true })?;
        match first {
            Some(Piece::End) => {}
            // If it fails, the response tells why.
            Some(Piece::Chunk { bytes, last }) => {
                if send.send_data(bytes, last).is_ok() && !last {
                    self.send = Some(send);
                }
            }
            Some(Piece::Trailers(trailers)) => drop(send.send_trailers(trailers)),
            None => self.send = Some(send),
        }
        Ok(response)
    }

    /// Ready only if the attempt ends with it.
    fn poll(&mut self, cx: &mut Context<'_>, body: &mut RequestBody<'_>) -> Poll<Outcome> {
        while let Some(send) = &mut self.send {
            if self.pending.is_empty() && !self.last {
                match self.poll_piece(cx, body) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Err(error)) => return Poll::Ready(refusal(error)),
                    Poll::Ready(Ok(Piece::Chunk { bytes, last })) => (self.pending, self.last) = (bytes, last),
                    Poll::Ready(Ok(Piece::End)) => self.last = true,
                    Poll::Ready(Ok(Piece::Trailers(trailers))) => {
                        let _ = self.send.take().map(|mut send| send.send_trailers(trailers));
                    }
                }
                continue;
            }
            let sent = if self.pending.is_empty() {
                send.send_data(Bytes::new(), true)
            } else {
                match poll_send_capacity(send, cx, self.pending.len()) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(None) => {
                        self.send = None;
                        break;
                    }
                    Poll::Ready(Some(capacity)) => {
                        let part = self.pending.split_to(capacity);
                        send.send_data(part, self.last && self.pending.is_empty())
                    }
                }
            };
            if sent.is_err() || (self.last && self.pending.is_empty()) {
                self.send = None;
            }
        }
        Poll::Pending
    }

    /// The next piece of the request, with the id in it where that is wanted.
    fn poll_piece(&mut self, cx: &mut Context<'_>, body: &mut RequestBody<'_>) -> Poll<Result<Piece, BodyError>> {
        let Some(injector) = &mut self.injector else { return body.poll_next(cx) };
        loop {
            if let Some(piece) = injector.pop() {
                return Poll::Ready(Ok(piece));
            }
            match body.poll_next(cx) {
                Poll::Ready(Ok(Piece::Chunk { bytes, last })) => {
                    injector.push(bytes).map_err(BodyError::Refused)?;
                    if last {
                        injector.finish();
                    }
                }
                Poll::Ready(Ok(Piece::End)) if !injector.is_finished() => injector.finish(),
                other => return other,
            }
        }
    }
}

fn refusal(error: BodyError) -> Outcome {
    match error {
        BodyError::Gone => Outcome::Ended(Ended::Gone),
        BodyError::Refused(status) => Outcome::Refused(status),
    }
}

/// The answer on its way back.
struct Download {
    state: Receiving,
    scanner: FrameScanner,
    pending: Bytes,
}

enum Receiving {
    Head(ResponseFuture),
    Body(RecvStream),
}

impl Download {
    fn new(response: ResponseFuture) -> Download {
        Download { state: Receiving::Head(response), scanner: FrameScanner::default(), pending: Bytes::new() }
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        rules: &Rules<'_>,
        body: &mut RequestBody<'_>,
        client: &mut Client,
    ) -> Poll<Outcome> {
        if let Receiving::Head(response) = &mut self.state {
            let response = match Pin::new(response).poll(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(error)) => return Poll::Ready(failure(&error)),
                Poll::Ready(Ok(response)) => response,
            };
            let (parts, mut recv) = response.into_parts();
            let mut head = Response::from_parts(parts, ());
            if recv.is_end_stream() {
                return Poll::Ready(decide(Held { head, trailers: None }, rules, client));
            }
            // An error after metadata comes as head and trailers at once. Whatever else there is to come, the client
            // gets the metadata without delay.
            match recv.poll_data(cx) {
                Poll::Ready(None) => {
                    // Without a look at the trailers there is no status yet, and they are there or an error is.
                    match recv.poll_trailers(cx) {
                        Poll::Ready(Ok(trailers)) => {
                            return Poll::Ready(decide(Held { head, trailers }, rules, client));
                        }
                        Poll::Ready(Err(error)) => return Poll::Ready(failure(&error)),
                        Poll::Pending => {}
                    }
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(failure(&error)),
                Poll::Ready(Some(Ok(bytes))) => {
                    if let Err(TooLarge(size)) = self.receive(&mut recv, bytes, rules) {
                        return Poll::Ready(Outcome::Refused(answer_too_large(size, rules)));
                    }
                }
                Poll::Pending => {}
            }
            strip(head.headers_mut(), rules);
            // The mesh may have to end the answer early.
            head.headers_mut().remove(CONTENT_LENGTH);
            client.head(head, false);
            body.stop_keeping();
            // As with the request: the first chunk goes into the same write as the head.
            if !self.pending.is_empty() {
                client.data(std::mem::take(&mut self.pending));
            }
            self.state = Receiving::Body(recv);
        }
        self.poll_body(cx, rules, client)
    }

    fn poll_body(&mut self, cx: &mut Context<'_>, rules: &Rules<'_>, client: &mut Client) -> Poll<Outcome> {
        loop {
            while !self.pending.is_empty() {
                match client.poll_capacity(cx, self.pending.len()) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(None) => return Poll::Ready(Outcome::Ended(Ended::Gone)),
                    Poll::Ready(Some(capacity)) => {
                        client.data(self.pending.split_to(capacity));
                    }
                }
            }
            let Receiving::Body(recv) = &mut self.state else { return Poll::Pending };
            match recv.poll_data(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(Ok(bytes))) => {
                    if let Err(TooLarge(size)) = feed(&mut self.scanner, recv, &bytes, rules) {
                        return Poll::Ready(Outcome::Refused(answer_too_large(size, rules)));
                    }
                    self.pending = bytes;
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Outcome::Refused(lost(&error))),
                Poll::Ready(None) => match recv.poll_trailers(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Err(error)) => return Poll::Ready(Outcome::Refused(lost(&error))),
                    Poll::Ready(Ok(trailers)) => {
                        let mut trailers = trailers.unwrap_or_else(no_status);
                        strip(&mut trailers, rules);
                        let code = Code::of(&trailers);
                        client.trailers(trailers);
                        return Poll::Ready(Outcome::Answered { code, response_bytes: self.scanner.message_bytes() });
                    }
                },
            }
        }
    }

    fn receive(&mut self, recv: &mut RecvStream, bytes: Bytes, rules: &Rules<'_>) -> Result<(), TooLarge> {
        feed(&mut self.scanner, recv, &bytes, rules)?;
        self.pending = bytes;
        Ok(())
    }
}

fn feed(scanner: &mut FrameScanner, recv: &mut RecvStream, bytes: &Bytes, rules: &Rules<'_>) -> Result<(), TooLarge> {
    scanner.feed(bytes, rules.max_message_bytes)?;
    // It fails only on a stream that is gone, which the next read tells.
    let _ = recv.flow_control().release_capacity(bytes.len());
    Ok(())
}

fn answer_too_large(size: usize, rules: &Rules<'_>) -> Status {
    too_large(size, rules.max_message_bytes, "the model's answer is refused: received ")
}

/// What to do with an answer that has no messages.
fn decide(mut held: Held, rules: &Rules<'_>, client: &mut Client) -> Outcome {
    let status = held.trailers.as_ref().unwrap_or_else(|| held.head.headers());
    match rules.kind {
        EndpointKind::Peer if status.contains_key(NOT_HERE) => return Outcome::NotHere,
        EndpointKind::Peer if status.contains_key(OVERLOAD) => {
            strip(held.head.headers_mut(), rules);
            return Outcome::Overloaded(Box::new(held));
        }
        _ => {}
    }
    let code = Code::of(status);
    let matched = match rules.kind {
        EndpointKind::Runtime if code != Code::OK => {
            let message = message_of(status);
            let rule = rules.status_rules.iter().find(|rule| rule.matches(code, &message));
            rule.map(|rule| (rule.reason, message))
        }
        _ => None,
    };
    strip(held.head.headers_mut(), rules);
    if let Some(trailers) = &mut held.trailers {
        strip(trailers, rules);
    }
    if let Some((reason, message)) = matched {
        return Outcome::Matched { reason, code, message, held: Box::new(held) };
    }
    held.give(client);
    Outcome::Answered { code, response_bytes: 0 }
}

fn strip(headers: &mut HeaderMap, rules: &Rules<'_>) {
    if rules.kind != EndpointKind::Control {
        strip_ours(headers);
    }
}

/// A stream error before any answer.
fn failure(error: &h2::Error) -> Outcome {
    if is_unprocessed(error) {
        Outcome::Unprocessed { why: error.to_string(), is_over: error.is_go_away() }
    } else if error.is_reset() && error.is_remote() {
        let code = error.reason().map_or(Code::INTERNAL, Code::of_reset);
        Outcome::Refused(Status::new(code, format!("the model's server reset the stream: {error}")))
    } else {
        Outcome::Broken(error.to_string())
    }
}

/// The other side certainly did not process the request.
pub fn is_unprocessed(error: &h2::Error) -> bool {
    // A GOAWAY reaches only streams beyond the last one that the other side looked at.
    error.is_remote() && (error.is_go_away() || error.reason() == Some(h2::Reason::REFUSED_STREAM))
}

/// A stream error after a part of the answer.
fn lost(error: &h2::Error) -> Status {
    match error.reason() {
        Some(reason) if error.is_reset() && error.is_remote() => {
            Status::new(Code::of_reset(reason), format!("the model's server reset the stream: {error}"))
        }
        _ => Status::new(Code::UNAVAILABLE, format!("the connection to the model's server was lost: {error}")),
    }
}

fn no_status() -> HeaderMap {
    Status::new(Code::UNKNOWN, "the model's server sent no status").trailers()
}
