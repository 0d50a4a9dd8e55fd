//! What sampled requests go through: written down while they are under way, fetched by Python in batches.
//!
//! Without tracing, and of requests that are not sampled, a `Trace` is empty and nothing is done. Finding that out is inlined, and
//! all else is not: it would make the path of all other requests longer.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use http::HeaderMap;

use crate::client::Ended;
use crate::clock::epoch_ms;
use crate::endpoint::Endpoint;
use crate::exchange::Outcome;
use crate::grpc::{Code, Status};
use crate::histogram::Exemplar;
use crate::hub::{Answer, Reason};
use crate::lock::lock;
use crate::metrics::{Metric, Series};
use crate::policy::{Destination, Policy};
use crate::trace_context::{Sampler, SpanContext, state_of};

/// Requests kept between two looks of Python; of more only the number is told.
const MOST_REQUESTS: usize = 2048;

/// Steps of one request; there are hardly ever more than four.
const MOST_STEPS: usize = 128;

/// A request's part in a trace, empty where it has none.
#[derive(Clone, Default)]
pub struct Trace(Option<Arc<Traced>>);

struct Traced {
    span: SpanContext,
    parent: Option<SpanContext>,
    state: String,
    began: (SystemTime, Instant),
    story: Mutex<Story>,
}

/// What is known of a request so far.
#[derive(Default)]
struct Story {
    method: Option<String>,
    ids: (String, String),
    from_peer: bool,
    end: Option<(Code, String)>,
    steps: Vec<Step>,
}

/// One part of a request.
pub struct Step {
    pub kind: StepKind,
    pub span_id: u64,
    pub began: Instant,
    pub ended: Option<Instant>,
    /// As this step's other side answered; None for one that was left.
    pub end: Option<(Code, String)>,
    /// The ask of another request that this one waited for.
    pub joined: Option<SpanContext>,
}

pub enum StepKind {
    /// For a slot of the local copy.
    Queue,
    /// For a decision.
    Ask(Reason),
    /// At a peer or the model server.
    Send(Arc<Endpoint>),
}

/// A request that ended, as Python gets it.
pub struct Record {
    pub span: SpanContext,
    pub parent: Option<SpanContext>,
    pub state: String,
    pub began: SystemTime,
    pub took: Duration,
    pub method: String,
    pub model_id: String,
    pub vmodel_id: String,
    pub from_peer: bool,
    pub code: Code,
    pub message: String,
    /// In the order in which they began; their times since the request came in.
    pub steps: Vec<(Duration, Duration, Step)>,
}

impl Trace {
    /// Decides whether a request is sampled. Management calls are where their caller says so.
    #[inline(always)]
    pub fn enter(policy: &Policy, path: &str, from_peers: bool, headers: &mut HeaderMap, arrived: Instant) -> Trace {
        let enter = |sampler| Traced::enter(sampler, policy, path, from_peers, headers, arrived);
        Trace(policy.sampler.and_then(enter))
    }

    pub fn span(&self) -> Option<SpanContext> {
        self.0.as_ref().map(|traced| traced.span)
    }

    /// The request is one to be told of.
    #[inline(always)]
    pub fn serves<'a>(&self, method: impl FnOnce() -> &'a str, from_peer: bool) {
        if let Some(traced) = &self.0 {
            traced.serves(method(), from_peer);
        }
    }

    #[inline(always)]
    pub fn ended<'a>(&self, code: Code, ids: impl FnOnce() -> (&'a str, &'a str), message: &str) {
        if let Some(traced) = &self.0 {
            traced.ended(code, ids(), message);
        }
    }

    /// Counts a value, of whose bucket a sampled request becomes the example.
    #[inline(always)]
    pub fn observe(&self, series: &Series, metric: Metric, value: f64) {
        series.observe(metric, value);
        if let Some(traced) = &self.0 {
            series.exemplify(
                metric,
                Exemplar { trace_id: traced.span.trace_id.to_be_bytes(), value, time_ms: epoch_ms() },
            );
        }
    }

    /// Begins a step; what is given back ends it, at the latest when dropped.
    #[inline(always)]
    pub fn step(&self, kind: impl FnOnce() -> StepKind) -> OpenStep<'_> {
        OpenStep(self.0.as_deref().and_then(|traced| traced.begin(kind())))
    }
}

impl Traced {
    #[cold]
    fn enter(
        sampler: Sampler,
        policy: &Policy,
        path: &str,
        from_peers: bool,
        headers: &mut HeaderMap,
        arrived: Instant,
    ) -> Option<Arc<Traced>> {
        let may_begin = matches!(policy.destination(path, from_peers), Destination::Model);
        let entered = sampler.enter(headers, may_begin)?;
        Some(Arc::new(Traced {
            span: entered.span,
            parent: entered.parent,
            state: state_of(headers),
            began: (SystemTime::now(), arrived),
            story: Mutex::default(),
        }))
    }

    #[cold]
    fn serves(&self, method: &str, from_peer: bool) {
        let mut story = lock(&self.story);
        story.method = Some(method.to_owned());
        story.from_peer = from_peer;
    }

    #[cold]
    fn ended(&self, code: Code, (model_id, vmodel_id): (&str, &str), message: &str) {
        let mut story = lock(&self.story);
        story.ids = (model_id.to_owned(), vmodel_id.to_owned());
        story.end = Some((code, message.to_owned()));
    }

    /// The request, once it has ended; None where it is not to be told of.
    fn record(&self) -> Option<Record> {
        let mut story = std::mem::take(&mut *lock(&self.story));
        let (began, arrived) = self.began;
        let end = Instant::now();
        let (code, message) = story.end.unwrap_or((Code::CANCELLED, String::new()));
        let steps = story.steps.drain(..).map(|step| {
            let ended = step.ended.unwrap_or(end);
            (step.began - arrived, ended - arrived, step)
        });
        Some(Record {
            span: self.span,
            parent: self.parent,
            state: self.state.clone(),
            began,
            took: end - arrived,
            method: story.method?,
            model_id: story.ids.0,
            vmodel_id: story.ids.1,
            from_peer: story.from_peer,
            code,
            message,
            steps: steps.collect(),
        })
    }

    #[cold]
    fn begin(&self, kind: StepKind) -> Option<(&Traced, usize)> {
        let steps = &mut lock(&self.story).steps;
        if steps.len() >= MOST_STEPS {
            return None;
        }
        steps.push(Step {
            kind,
            span_id: self.span.child().span_id,
            began: Instant::now(),
            ended: None,
            end: None,
            joined: None,
        });
        Some((self, steps.len() - 1))
    }
}

/// A request's steps, by their places among them.
impl Traced {
    #[cold]
    fn span_of(&self, at: usize) -> SpanContext {
        self.span.with_span(lock(&self.story).steps[at].span_id)
    }

    fn end(&self, at: usize, code: Code, message: &str) {
        let step = &mut lock(&self.story).steps[at];
        step.ended = Some(Instant::now());
        step.end = Some((code, message.to_owned()));
    }

    #[cold]
    fn came_to(&self, at: usize, outcome: &Outcome) {
        match outcome {
            Outcome::Matched { code, message, .. } => self.end(at, *code, message),
            Outcome::Refused(Status { code, message, .. }) => self.end(at, *code, message),
            Outcome::Broken(why) | Outcome::Unprocessed { why, .. } => self.end(at, Code::UNAVAILABLE, why),
            Outcome::NotHere => self.end(at, Code::UNAVAILABLE, "the peer has no copy"),
            Outcome::Overloaded(_) => self.end(at, Code::RESOURCE_EXHAUSTED, "the peer's copy has no room"),
            Outcome::Answered { .. } | Outcome::Ended(_) => self.end(at, outcome.code().unwrap_or(Code::UNKNOWN), ""),
        }
    }

    #[cold]
    fn close(&self, at: usize) {
        lock(&self.story).steps[at].ended.get_or_insert_with(Instant::now);
    }
}

/// A step under way: of what request, and which of its steps.
pub struct OpenStep<'a>(Option<(&'a Traced, usize)>);

impl OpenStep<'_> {
    /// The step's span.
    #[inline(always)]
    pub fn span(&self) -> Option<SpanContext> {
        self.0.map(|(traced, at)| traced.span_of(at))
    }

    /// Has the next hop's span become a part of this step.
    #[inline(always)]
    pub fn write(&self, headers: &mut HeaderMap) {
        if let Some((traced, at)) = self.0 {
            traced.span_of(at).write(headers);
        }
    }

    /// The decision was one for another request as well, which asked first.
    pub fn joined(&self, other: Option<SpanContext>) {
        if let Some((traced, at)) = self.0 {
            lock(&traced.story).steps[at].joined = other;
        }
    }

    pub fn end(&self, code: Code, message: &str) {
        if let Some((traced, at)) = self.0 {
            traced.end(at, code, message);
        }
    }

    /// Python has decided, or the request ended before that.
    pub fn decided(&self, answered: &Result<Option<Answer>, Ended>) {
        match answered {
            Ok(Some(Answer::Status(Status { code, message, .. }))) => self.end(*code, message),
            Ok(Some(Answer::Route { .. } | Answer::Endpoint { .. } | Answer::Held)) => self.end(Code::OK, ""),
            Ok(None) => self.end(Code::UNAVAILABLE, "the instance is being stopped"),
            Err(Ended::Gone) => self.end(Code::CANCELLED, ""),
            Err(Ended::Expired) => self.end(Code::DEADLINE_EXCEEDED, ""),
        }
    }

    /// An attempt ended.
    #[inline(always)]
    pub fn came_to(&self, outcome: &Outcome) {
        if let Some((traced, at)) = self.0 {
            traced.came_to(at, outcome);
        }
    }
}

impl Drop for OpenStep<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        if let Some((traced, at)) = self.0 {
            traced.close(at);
        }
    }
}

/// Requests that ended and that Python has not fetched.
#[derive(Default)]
pub struct Traces {
    records: Mutex<Vec<Record>>,
    dropped: AtomicU64,
}

impl Traces {
    /// Keeps what a request went through, if it is to be told of.
    #[inline(always)]
    pub fn keep(&self, trace: &Trace) {
        if let Some(traced) = &trace.0 {
            self.keep_record(traced);
        }
    }

    #[cold]
    fn keep_record(&self, traced: &Traced) {
        let Some(record) = traced.record() else { return };
        let mut records = lock(&self.records);
        if records.len() < MOST_REQUESTS {
            records.push(record);
        } else {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The requests since the last time, and how many have been dropped since the start.
    pub fn take(&self) -> (Vec<Record>, u64) {
        (std::mem::take(&mut *lock(&self.records)), self.dropped.load(Ordering::Relaxed))
    }
}
