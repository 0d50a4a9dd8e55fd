//! A request on its way through one endpoint after the other, until one answers or Python ends it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::time::sleep;

use crate::alias::Alias;
use crate::body::RequestBody;
use crate::client::{Client, Ended};
use crate::clock::epoch_ms;
use crate::endpoint::{Endpoint, EndpointKind, Unreachable};
use crate::exchange::{Held, Outcome, Rules, exchange};
use crate::grpc::{Code, Status};
use crate::hub::{Answer, Question, Reason};
use crate::inject::Injector;
use crate::metadata::{self, OVERLOAD, Subject};
use crate::metrics::{Metric, Series};
use crate::model::{Choice, Lease, Ticket, Wanted};
use crate::shadow::Mirrored;
use crate::stream::Call;
use crate::trace::StepKind;

/// A server that refuses a stream gets it again so often, on another connection if need be.
pub const MAX_REPLAYS: u32 = 10;

/// A server that refuses a stream on a connection that goes on is given a moment.
pub const REPLAY_AFTER: Duration = Duration::from_millis(2);

/// Decisions that one request may ask for. Upstream tries at most eight times; beyond this, Python and the table
/// disagree without end.
const MAX_ASKS: u32 = 32;

/// The model a request is for.
pub struct Target {
    /// As the request names it.
    subject: Subject,
    /// The model itself, once known.
    model_id: Option<Box<str>>,
    /// The vmodel by which a peer's request came.
    via: Option<Box<str>>,
    balanced: bool,
}

impl Target {
    pub fn new(subject: Subject, balanced: bool) -> Target {
        let model_id = (!subject.is_vmodel).then(|| subject.id.clone());
        Target { subject, model_id, via: None, balanced }
    }

    /// The target of a request that a peer has resolved.
    pub fn resolved(model_id: Box<str>, via: Option<Box<str>>, balanced: bool) -> Target {
        Target { via, ..Target::new(Subject { id: model_id, is_vmodel: false }, balanced) }
    }

    /// As the request names it.
    pub fn subject(&self) -> &Subject {
        &self.subject
    }

    fn model_id(&self) -> &str {
        self.model_id.as_deref().unwrap_or("")
    }

    fn vmodel_id(&self) -> Option<&str> {
        if self.subject.is_vmodel { Some(&self.subject.id) } else { self.via.as_deref() }
    }
}

/// How a request ended, for the counters.
pub struct Ending {
    pub code: Code,
    pub response_bytes: Option<u64>,
    /// Where the local runtime's answer was the end.
    pub answered: Option<Answered>,
}

/// What the local runtime's part in a request was counted with, which is the same for the whole of it.
pub struct Answered {
    pub at: Instant,
    pub series: Arc<Series>,
}

impl Ending {
    pub fn new(code: Code, response_bytes: Option<u64>) -> Ending {
        Ending { code, response_bytes, answered: None }
    }
}

/// What to do next with a request.
enum Step {
    /// Look the route up.
    Route,
    /// Send it there.
    Endpoint(u32),
    /// Send it there again, since it was certainly not processed.
    Replay {
        endpoint: u32,
        at_once: bool,
    },
    Send(Lease),
    Queue(Ticket),
    /// Put the question.
    Ask(Box<Failure>),
    Done(Ending),
}

/// Why a question is put.
struct Failure {
    reason: Reason,
    endpoint: Option<u32>,
    code: Option<Code>,
    message: String,
    held: Option<Box<Held>>,
}

impl Step {
    fn ask(reason: Reason, endpoint: Option<u32>, message: String) -> Step {
        Step::Ask(Box::new(Failure { reason, endpoint, code: None, message, held: None }))
    }
}

pub struct Journey<'a> {
    call: &'a Call,
    target: Target,
    tried: Vec<u32>,
    attempts: u32,
    asks: u32,
    replays: u32,
    /// When the newest attempt was sent.
    sent: Option<Instant>,
    /// The answer of a copy without room, for the client if no other copy has any.
    overloaded: Option<Box<Held>>,
    missing: bool,
}

impl<'a> Journey<'a> {
    pub fn new(call: &'a Call, target: Target) -> Journey<'a> {
        Journey {
            call,
            target,
            tried: Vec::new(),
            attempts: 0,
            asks: 0,
            replays: 0,
            sent: None,
            overloaded: None,
            missing: false,
        }
    }

    /// Finds out which model a vmodel stands for, and whether another is to get the request a second time.
    pub fn resolve(&mut self) -> Option<Mirrored> {
        if self.target.model_id.is_some() {
            return None;
        }
        let vmodel_id = &self.target.subject.id;
        match self.call.plane.table.alias(vmodel_id)? {
            Alias::One(model_id) => {
                self.target.model_id = Some((*model_id).into());
                None
            }
            Alias::Split(split) => {
                let (model_id, shadow_id) = split.next();
                let shadow_id = shadow_id.filter(|shadow_id| *shadow_id != model_id);
                let mirrored = shadow_id.map(|shadow_id| Mirrored::new(vmodel_id, shadow_id));
                self.target.model_id = Some(model_id.into());
                mirrored
            }
        }
    }

    /// The vmodel may have moved on while Python thought about it.
    fn resolve_again(&mut self) {
        let stays = match self.call.plane.table.alias(&self.target.subject.id) {
            Some(Alias::Split(split)) => split.contains(self.target.model_id()),
            Some(Alias::One(_)) => false,
            None => true,
        };
        if !stays {
            self.target.model_id = None;
            self.resolve();
        }
    }

    /// The model that the request went to, as far as it is known.
    pub fn model_id(&self) -> &str {
        self.target.model_id()
    }

    /// The request has ended because Python knows no such model.
    pub fn is_missing(&self) -> bool {
        self.missing
    }

    /// The model and the vmodel, empty where unknown or none.
    pub fn ids(&self) -> (&str, &str) {
        (self.target.model_id(), self.target.vmodel_id().unwrap_or(""))
    }

    /// The histograms that this request counts in.
    pub fn series(&self, code: Code, now_ms: u64) -> Arc<Series> {
        // Clients can make up ids.
        let (model_id, vmodel_id) = if self.missing { ("", "") } else { self.ids() };
        self.call.state().metrics.series(self.call.method(), code, model_id, vmodel_id, now_ms)
    }

    pub async fn run(&mut self, body: &mut RequestBody<'_>, client: &mut Client) -> Ending {
        let mut step = Step::Route;
        loop {
            step = match step {
                Step::Done(ending) => return ending,
                Step::Route => self.route(client),
                Step::Endpoint(id) => self.at_endpoint(id, client),
                Step::Replay { endpoint, at_once: true } => self.replay(endpoint, client),
                Step::Replay { endpoint, .. } => match Box::pin(client.unless_ended(sleep(REPLAY_AFTER))).await {
                    Ok(()) => self.replay(endpoint, client),
                    Err(ended) => done(ended, client),
                },
                Step::Send(lease) => self.send(lease, body, client).await,
                // Boxed because they are rare, and every request's task has room for its largest wait.
                Step::Queue(ticket) => Box::pin(self.queue(ticket, client)).await,
                Step::Ask(failure) => Box::pin(self.ask(*failure, body, client)).await,
            }
        }
    }

    /// Resolves the vmodel and takes a copy of the model's route.
    fn route(&mut self, client: &mut Client) -> Step {
        self.resolve();
        let model = self.target.model_id.as_deref().and_then(|id| self.call.plane.table.get(id));
        let wanted = Wanted { avoid: &self.tried, local_only: self.call.from_peer, prefer_local: self.target.balanced };
        match (model.map_or(Choice::None, |model| model.choose(wanted, epoch_ms())), self.overloaded.take()) {
            (Choice::None | Choice::Full, Some(held)) => give(held, client),
            (Choice::None, None) => Step::ask(Reason::NoRoute, None, String::new()),
            (choice, _) => self.take(choice, client),
        }
    }

    fn at_endpoint(&mut self, id: u32, client: &mut Client) -> Step {
        let Some(endpoint) = self.call.plane.endpoint(id) else {
            self.tried.push(id);
            return Step::ask(Reason::Unreachable, Some(id), format!("endpoint {id} was removed"));
        };
        let Some(model_id) = self.target.model_id.as_deref() else {
            let message = format!("no model is known for vmodel {}", self.target.subject.id);
            return refuse(&Status::new(Code::INTERNAL, message), client);
        };
        let choice = self.call.plane.table.take_at(model_id, &endpoint, epoch_ms());
        self.take(choice, client)
    }

    fn replay(&mut self, id: u32, client: &mut Client) -> Step {
        let is_there = self.call.plane.endpoint(id).is_some();
        if is_there { self.at_endpoint(id, client) } else { Step::Route }
    }

    fn take(&self, choice: Choice, client: &mut Client) -> Step {
        let table = &self.call.plane.table;
        match choice {
            Choice::None => Step::Route,
            Choice::Full => self.overload(client),
            Choice::Ready(lease) => {
                if lease.endpoint().kind == EndpointKind::Runtime {
                    table.report(lease.model());
                    if lease.is_limited() {
                        self.observe_queue_delay(0.0);
                    }
                }
                Step::Send(lease)
            }
            Choice::Queued(ticket) => {
                if let Some(lease) = ticket.lease() {
                    table.report(lease.model());
                }
                Step::Queue(ticket)
            }
        }
    }

    /// Waits for a slot of the local copy.
    async fn queue(&mut self, ticket: Ticket, client: &mut Client) -> Step {
        let counters = &self.call.state().counters;
        let step = self.call.trace.step(|| StepKind::Queue);
        let since = Instant::now();
        counters.queued.fetch_add(1, Ordering::Relaxed);
        let granted = client.unless_ended(ticket.wait()).await;
        drop(step);
        counters.queued.fetch_sub(1, Ordering::Relaxed);
        self.observe_queue_delay(since.elapsed().as_secs_f64() * 1000.0);
        match granted {
            Ok(Some(lease)) if !lease.endpoint().is_removed() => Step::Send(lease),
            Ok(_) => Step::Route,
            Err(ended) => done(ended, client),
        }
    }

    fn observe_queue_delay(&self, milliseconds: f64) {
        let (model_id, vmodel_id) = self.ids();
        let series = self.call.state().metrics.model_series(model_id, vmodel_id, epoch_ms());
        self.call.trace.observe(&series, Metric::QueueDelay, milliseconds);
    }

    /// The local copy's queue is full, and there is no other copy.
    fn overload(&self, client: &mut Client) -> Step {
        let mut status = Status::new(Code::RESOURCE_EXHAUSTED, "Model queue overload");
        status.control = self.call.from_peer.then_some(OVERLOAD);
        refuse(&status, client)
    }

    async fn send(&mut self, mut lease: Lease, body: &mut RequestBody<'_>, client: &mut Client) -> Step {
        let call = self.call;
        let endpoint = lease.endpoint();
        let model_id = self.target.model_id();
        let mut injector = None;
        if endpoint.kind == EndpointKind::Runtime {
            let Some(path) = call.policy.runtime_path(call.method()) else {
                return refuse(&call.not_permitted(), client);
            };
            if !path.is_empty() {
                let limit = call.plane.settings.max_message_bytes;
                injector = Some(Box::new(Injector::new(path, model_id, call.encoding(), limit)));
            }
        } else if call.hops >= call.plane.settings.max_hops {
            let message = format!("the request was forwarded {} times and may not be again", call.hops);
            return refuse(&Status::new(Code::UNAVAILABLE, message), client);
        } else {
            call.state().counters.forwarded.fetch_add(1, Ordering::Relaxed);
        }
        let step = call.trace.step(|| StepKind::Send(Arc::clone(endpoint)));
        let upstream = match endpoint.try_acquire(call.shard) {
            Some(upstream) => upstream,
            None => match Box::pin(client.unless_ended(endpoint.acquire(call.shard))).await {
                Ok(Ok(upstream)) => upstream,
                Ok(Err(Unreachable(why))) => {
                    step.end(Code::UNAVAILABLE, &why);
                    self.tried.push(endpoint.id);
                    return Step::ask(Reason::Unreachable, Some(endpoint.id), why);
                }
                Err(ended) => return done(ended, client),
            },
        };
        if endpoint.kind == EndpointKind::Runtime {
            call.log_invocation(self.ids());
        }
        let began = Instant::now();
        self.sent = Some(began);
        let rules = Rules {
            kind: endpoint.kind,
            status_rules: &call.policy.status_rules,
            max_message_bytes: call.plane.settings.max_message_bytes,
        };
        let (vmodel_id, deadline) = (self.target.vmodel_id(), client.deadline);
        let id = lease.model().id_headers();
        let head = || {
            let mut headers = match endpoint.kind {
                EndpointKind::Runtime => metadata::for_runtime(&call.headers, id),
                _ => metadata::for_peer(&call.headers, id, vmodel_id, call.hops + 1),
            };
            step.write(&mut headers);
            (upstream.sender(), call.request(endpoint, headers, deadline))
        };
        let outcome = exchange(head, injector, rules, body, client).await;
        step.came_to(&outcome);
        let (mut served, mut answered) = (None, None);
        if let (EndpointKind::Runtime, Some(code)) = (endpoint.kind, outcome.code()) {
            let at = Instant::now();
            let time = at - began;
            served = (code == Code::OK).then_some(time);
            let series = self.series(code, epoch_ms());
            call.trace.observe(&series, Metric::InvokeModel, time.as_secs_f64() * 1000.0);
            answered = Some(Answered { at, series });
        }
        if matches!(outcome, Outcome::Unprocessed { is_over: true, .. }) {
            upstream.retire();
        }
        let step = self.judge(endpoint, outcome, answered, body, client);
        if let Some(time) = served {
            lease.served(time);
        }
        step
    }

    /// Decides what an attempt's end means for the request.
    fn judge(
        &mut self,
        endpoint: &Endpoint,
        outcome: Outcome,
        answered: Option<Answered>,
        body: &mut RequestBody<'_>,
        client: &mut Client,
    ) -> Step {
        let id = Some(endpoint.id);
        match outcome {
            Outcome::Answered { code, response_bytes } => {
                let response_bytes = (code == Code::OK).then_some(response_bytes);
                Step::Done(Ending { code, response_bytes, answered })
            }
            Outcome::Ended(ended) => done(ended, client),
            Outcome::Refused(status) => refuse(&status, client),
            Outcome::Unprocessed { is_over, .. } if self.replays < MAX_REPLAYS && body.rewind() => {
                self.replays += 1;
                self.call.state().counters.replayed.fetch_add(1, Ordering::Relaxed);
                Step::Replay { endpoint: endpoint.id, at_once: is_over }
            }
            Outcome::Unprocessed { why, .. } => {
                self.tried(endpoint);
                Step::ask(Reason::Unreachable, id, why)
            }
            Outcome::Broken(why) => {
                self.tried(endpoint);
                Step::ask(Reason::Broken, id, why)
            }
            Outcome::NotHere => {
                self.tried(endpoint);
                Step::ask(Reason::NotHere, id, String::new())
            }
            Outcome::Overloaded(held) => {
                self.tried(endpoint);
                if !body.rewind() {
                    return give(held, client);
                }
                self.overloaded = Some(held);
                Step::Route
            }
            Outcome::Matched { reason, code, message, held } => {
                self.tried(endpoint);
                Step::Ask(Box::new(Failure { reason, endpoint: id, code: Some(code), message, held: Some(held) }))
            }
        }
    }

    fn tried(&mut self, endpoint: &Endpoint) {
        self.attempts += 1;
        self.tried.push(endpoint.id);
    }

    async fn ask(&mut self, failure: Failure, body: &mut RequestBody<'_>, client: &mut Client) -> Step {
        self.asks += 1;
        if self.asks > MAX_ASKS {
            let message = format!("no copy was found in {MAX_ASKS} decisions; last: {}", failure.reason.name());
            return refuse(&Status::new(Code::UNAVAILABLE, message), client);
        }
        let step = self.call.trace.step(|| StepKind::Ask(failure.reason));
        let waiter = self.call.plane.hub.ask(Question { trace: step.span(), ..self.question(&failure, client) });
        step.joined(waiter.joined);
        let answered = client.unless_ended(waiter.answer()).await;
        step.decided(&answered);
        let answer = match answered {
            Ok(Some(answer)) => answer,
            Ok(None) => return refuse(&Status::new(Code::UNAVAILABLE, "the instance is being stopped"), client),
            Err(ended) => return done(ended, client),
        };
        let (step, model_id) = match answer {
            Answer::Status(mut status) => {
                if !self.call.from_peer {
                    status.control = None;
                }
                self.missing = status.code == Code::NOT_FOUND;
                return refuse(&status, client);
            }
            Answer::Held => {
                return match failure.held {
                    Some(held) => give(held, client),
                    None => refuse(&Status::new(Code::INTERNAL, "there is no answer to give back"), client),
                };
            }
            Answer::Route { model_id } => (Step::Route, model_id),
            Answer::Endpoint { endpoint, model_id } => (Step::Endpoint(endpoint), model_id),
        };
        if !model_id.is_empty() {
            self.target.model_id = Some(model_id.into());
        } else if self.target.subject.is_vmodel {
            self.resolve_again();
        }
        match failure.held {
            _ if body.rewind() => step,
            Some(held) => give(held, client),
            None => {
                let why = format!("the request is too large to be sent again after: {}", failure.reason.name());
                refuse(&Status::new(Code::UNAVAILABLE, why), client)
            }
        }
    }

    fn question(&self, failure: &Failure, client: &Client) -> Question {
        let left = |deadline: tokio::time::Instant| {
            let left = deadline.saturating_duration_since(tokio::time::Instant::now());
            i64::try_from(left.as_millis()).unwrap_or(i64::MAX)
        };
        Question {
            reason: failure.reason,
            model_id: self.target.subject.id.to_string(),
            is_vmodel: self.target.subject.is_vmodel,
            resolved_id: if self.target.subject.is_vmodel { self.target.model_id().to_owned() } else { String::new() },
            from_peer: self.call.from_peer,
            method: self.call.method().to_owned(),
            endpoint: failure.endpoint.map_or(-1, i64::from),
            code: failure.code.map_or(-1, |code| i32::from(code.number())),
            message: failure.message.clone(),
            attempt: self.attempts,
            tried: self.tried.clone(),
            balanced: self.target.balanced,
            sent: self.sent,
            deadline_ms: client.deadline.map_or(-1, left),
            context: self.call.context(),
            trace: None,
        }
    }
}

fn done(ended: Ended, client: &mut Client) -> Step {
    Step::Done(Ending::new(client.end(ended), None))
}

fn refuse(status: &Status, client: &mut Client) -> Step {
    client.status(status);
    Step::Done(Ending::new(status.code, None))
}

fn give(held: Box<Held>, client: &mut Client) -> Step {
    let code = held.code();
    held.give(client);
    Step::Done(Ending::new(code, (code == Code::OK).then_some(0)))
}
