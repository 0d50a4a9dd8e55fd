//! One request from its head to its answer: where it goes, and where it goes next.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::uri::{PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version, header};

use crate::body::{BodyError, RequestBody};
use crate::client::{Client, Ended};
use crate::clock::epoch_ms;
use crate::endpoint::{Endpoint, EndpointKind, Unreachable};
use crate::exchange::{Held, Outcome, Rules, exchange};
use crate::grpc::{Code, GRPC_ENCODING, GRPC_TIMEOUT, Status};
use crate::hub::{Answer, Question, Reason};
use crate::inject::Injector;
use crate::metadata::{self, FROM_PEER, OVERLOAD, Subject};
use crate::metrics::Metric;
use crate::model::{Choice, Lease, Wanted};
use crate::plane::{Plane, ShardState};
use crate::policy::{Destination, Policy};
use crate::timeout;

/// A server that refuses a stream gets it again so often, on another connection if need be.
const MAX_REPLAYS: u32 = 5;

/// Decisions that one request may ask for. Upstream tries at most eight times; beyond this, Python and the table
/// disagree without end.
const MAX_ASKS: u32 = 32;

/// Serves one stream of a listener.
pub async fn serve(
    plane: Arc<Plane>,
    shard: usize,
    peers: bool,
    request: Request<RecvStream>,
    respond: SendResponse<Bytes>,
) {
    let state = &plane.shards[shard];
    state.counters.streams.fetch_add(1, Ordering::Relaxed);
    state.counters.requests.fetch_add(1, Ordering::Relaxed);
    let _counted = Counted(state);
    let (parts, recv) = request.into_parts();

    let path = parts.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    let timeout = parts.headers.get(GRPC_TIMEOUT).map(|value| timeout::parse(value.as_bytes()));
    let arrived = Instant::now();
    let deadline = timeout.flatten().and_then(|timeout| arrived.checked_add(timeout));
    let mut client = Client::new(respond, deadline.map(Into::into));

    if let Some(status) = not_grpc(&parts.method, &parts.headers) {
        return client.head(status, true);
    }
    let size = metadata::size_of(&parts.headers, path.as_str());
    if size > plane.settings.max_metadata_bytes {
        let most = plane.settings.max_metadata_bytes;
        let message = format!("received metadata size exceeds limit ({size} vs. {most})");
        return client.status(&Status::new(Code::RESOURCE_EXHAUSTED, message));
    }
    if timeout == Some(None) {
        let message = "grpc-timeout must be 1 to 8 digits and one of H, M, S, m, u, n";
        return client.status(&Status::new(Code::INVALID_ARGUMENT, message));
    }
    let mut body = RequestBody::new(recv, &plane.budget, plane.settings.max_message_bytes);
    let policy = plane.policy();
    let call = Call {
        plane: &plane,
        shard,
        state,
        policy: &policy,
        path: &path,
        headers: &parts.headers,
        arrived,
        from_peer: peers && parts.headers.contains_key(FROM_PEER),
        hops: if peers { metadata::hops_of(&parts.headers) } else { 0 },
    };
    match policy.destination(path.path(), peers) {
        Destination::Forbidden => client.status(&call.not_permitted()),
        Destination::Control(endpoint) => call.control(endpoint, &mut body, &mut client).await,
        Destination::Model => call.infer(peers, &mut body, &mut client).await,
    }
}

struct Counted<'a>(&'a ShardState);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.counters.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The HTTP answer to what is not gRPC.
fn not_grpc(method: &Method, headers: &HeaderMap) -> Option<Response<()>> {
    let is_grpc = headers.get(header::CONTENT_TYPE).is_some_and(|value| {
        let rest = value.as_bytes().strip_prefix(b"application/grpc");
        rest.is_some_and(|rest| rest.is_empty() || rest[0] == b'+' || rest[0] == b';')
    });
    let status = if method != Method::POST {
        StatusCode::METHOD_NOT_ALLOWED
    } else if !is_grpc {
        StatusCode::UNSUPPORTED_MEDIA_TYPE
    } else {
        return None;
    };
    let mut response = Response::new(());
    *response.status_mut() = status;
    if status == StatusCode::METHOD_NOT_ALLOWED {
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST"));
    }
    Some(response)
}

/// One request, as its head tells it.
struct Call<'a> {
    plane: &'a Arc<Plane>,
    shard: usize,
    state: &'a ShardState,
    policy: &'a Arc<Policy>,
    path: &'a PathAndQuery,
    headers: &'a HeaderMap,
    arrived: Instant,
    from_peer: bool,
    hops: u32,
}

/// The model a request is for.
struct Target {
    /// As the request names it; a vmodel's where `is_vmodel`.
    subject: Subject,
    /// The model itself, once known.
    model_id: Option<Box<str>>,
    /// The vmodel by which a peer's request came.
    via: Option<Box<str>>,
    balanced: bool,
}

impl Target {
    fn model_id(&self) -> &str {
        self.model_id.as_deref().unwrap_or("")
    }

    fn vmodel_id(&self) -> Option<&str> {
        if self.subject.is_vmodel { Some(&self.subject.id) } else { self.via.as_deref() }
    }
}

/// How a request ended, for the counters.
struct Ending {
    code: Code,
    response_bytes: Option<u64>,
}

impl Ending {
    fn without_answer(code: Code) -> Ending {
        Ending { code, response_bytes: None }
    }
}

/// What to do next with a request.
enum Step {
    /// Look the route up.
    Route,
    /// Send it there.
    Endpoint(u32),
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

impl Failure {
    fn new(reason: Reason, endpoint: Option<u32>, message: String) -> Box<Failure> {
        Box::new(Failure { reason, endpoint, code: None, message, held: None })
    }
}

impl Call<'_> {
    /// The full method name.
    fn method(&self) -> &str {
        self.path.path().trim_start_matches('/')
    }

    fn not_permitted(&self) -> Status {
        Status::new(Code::UNIMPLEMENTED, format!("Method not found or not permitted: {}", self.method()))
    }

    /// The head for the next hop.
    fn request(&self, endpoint: &Endpoint, mut headers: HeaderMap, client: &Client) -> Request<()> {
        if let Some(deadline) = client.deadline {
            let left = deadline.saturating_duration_since(tokio::time::Instant::now());
            headers.insert(GRPC_TIMEOUT, timeout::encode(left));
        }
        let mut uri = http::uri::Parts::default();
        uri.scheme = Some(Scheme::HTTP);
        uri.authority = Some(endpoint.authority.clone());
        uri.path_and_query = Some(self.path.clone());
        let mut request = Request::new(());
        *request.method_mut() = Method::POST;
        *request.version_mut() = Version::HTTP_2;
        // All three parts are there, which is all that can fail.
        *request.uri_mut() = Uri::from_parts(uri).unwrap_or_default();
        *request.headers_mut() = headers;
        request
    }

    /// A management call: to the server of this process, and no further.
    async fn control(&self, endpoint: &Arc<Endpoint>, body: &mut RequestBody<'_>, client: &mut Client) {
        let mut replays = 0;
        let status = loop {
            let upstream = match client.unless_ended(endpoint.acquire(self.shard)).await {
                Ok(Ok(upstream)) => upstream,
                Ok(Err(Unreachable(why))) => break Status::new(Code::UNAVAILABLE, why),
                Err(ended) => {
                    finish_ended(client, ended);
                    return;
                }
            };
            let request = self.request(endpoint, metadata::for_control(self.headers), client);
            let rules = Rules {
                kind: EndpointKind::Control,
                status_rules: &[],
                max_message_bytes: self.plane.settings.max_message_bytes,
            };
            match exchange(upstream.sender(), request, None, rules, body, client).await {
                Outcome::Unprocessed(why) => {
                    upstream.retire();
                    replays += 1;
                    if replays > MAX_REPLAYS || !body.rewind() {
                        break Status::new(Code::UNAVAILABLE, why);
                    }
                    self.state.counters.replayed.fetch_add(1, Ordering::Relaxed);
                }
                Outcome::Broken(why) => break Status::new(Code::UNAVAILABLE, why),
                Outcome::Refused(status) => break status,
                Outcome::Ended(ended) => {
                    finish_ended(client, ended);
                    return;
                }
                // The rest cannot come from a control server.
                _ => return,
            }
        };
        client.status(&status);
    }

    async fn infer(&self, peers: bool, body: &mut RequestBody<'_>, client: &mut Client) {
        let target = match self.target(body, client).await {
            Ok(target) => target,
            Err(BodyError::Refused(status)) => return client.status(&status),
            Err(BodyError::Gone) => return finish_ended_quietly(client),
        };
        let mut journey = Journey { call: self, target, tried: Vec::new(), attempts: 0, asks: 0, replays: 0 };
        let ending = journey.run(body, client).await;
        if !peers {
            let now = epoch_ms();
            let (model_id, vmodel_id) = (journey.target.model_id(), journey.target.vmodel_id().unwrap_or(""));
            let series = self.state.metrics.series(self.method(), ending.code, model_id, vmodel_id, now);
            series.observe(Metric::ApiRequest, self.arrived.elapsed().as_secs_f64() * 1000.0);
            series.observe(Metric::RequestSize, body.message_bytes() as f64);
            if let Some(bytes) = ending.response_bytes {
                series.observe(Metric::ResponseSize, bytes as f64);
            }
        }
    }

    /// Finds out which model the request is for, or why it is refused.
    async fn target(&self, body: &mut RequestBody<'_>, client: &mut Client) -> Result<Target, BodyError> {
        let balanced = metadata::is_balanced(self.headers);
        if self.hops > self.plane.settings.max_hops {
            let message = format!("the request was forwarded more than {} times", self.plane.settings.max_hops);
            return Err(BodyError::Refused(Status::new(Code::UNAVAILABLE, message)));
        }
        if self.from_peer {
            let (model, via) = metadata::resolved_of(self.headers).map_err(BodyError::Refused)?;
            let subject = Subject { id: model.clone(), is_vmodel: false };
            return Ok(Target { subject, model_id: Some(model), via, balanced });
        }
        if !self.policy.allows(self.method()) {
            return Err(BodyError::Refused(self.not_permitted()));
        }
        let mut subject = None;
        if let Some(rpc) = self.policy.rpc(self.method()) {
            let encoding = self.headers.get(GRPC_ENCODING).and_then(|value| value.to_str().ok()).unwrap_or("identity");
            let found = client.unless_ended(poll_fn(|cx| body.poll_extract(cx, &rpc.path, encoding))).await;
            let found = match found {
                Ok(found) => found?,
                Err(Ended::Gone) => return Err(BodyError::Gone),
                Err(Ended::Expired) => return Err(BodyError::Refused(expired())),
            };
            if let Some(id) = found {
                let what = if rpc.is_vmodel { "vmodel-id" } else { "model-id" };
                let id = metadata::non_empty(&id, what).map_err(BodyError::Refused)?;
                subject = Some(Subject { id, is_vmodel: rpc.is_vmodel });
            }
        }
        let subject = match subject {
            Some(subject) => subject,
            None => metadata::subject_of(self.headers).map_err(BodyError::Refused)?,
        };
        let model_id = if subject.is_vmodel { None } else { Some(subject.id.clone()) };
        Ok(Target { subject, model_id, via: None, balanced })
    }
}

fn expired() -> Status {
    Status::new(Code::DEADLINE_EXCEEDED, "Deadline exceeded")
}

fn finish_ended(client: &mut Client, ended: Ended) -> Ending {
    match ended {
        Ended::Gone => {
            finish_ended_quietly(client);
            Ending::without_answer(Code::CANCELLED)
        }
        Ended::Expired => {
            client.status(&expired());
            Ending::without_answer(Code::DEADLINE_EXCEEDED)
        }
    }
}

fn finish_ended_quietly(client: &mut Client) {
    client.reset(h2::Reason::CANCEL);
}

/// A request on its way through one endpoint after the other.
struct Journey<'a> {
    call: &'a Call<'a>,
    target: Target,
    tried: Vec<u32>,
    attempts: u32,
    asks: u32,
    replays: u32,
}

impl Journey<'_> {
    async fn run(&mut self, body: &mut RequestBody<'_>, client: &mut Client) -> Ending {
        let mut step = Step::Route;
        // The answer of a copy without room, for the client if no other has any.
        let mut overloaded = None;
        loop {
            step = match step {
                Step::Done(ending) => return ending,
                Step::Route => self.route(body, client, &mut overloaded).await,
                Step::Endpoint(id) => self.at_endpoint(id, body, client, &mut overloaded).await,
                Step::Ask(failure) => self.ask(failure, body, client).await,
            }
        }
    }

    /// Resolves the vmodel and takes a copy of the model's route.
    async fn route(
        &mut self,
        body: &mut RequestBody<'_>,
        client: &mut Client,
        overloaded: &mut Option<Box<Held>>,
    ) -> Step {
        let table = &self.call.plane.table;
        if self.target.model_id.is_none() {
            self.resolve_vmodel();
        }
        let choice = match self.target.model_id.as_deref().and_then(|id| table.get(id)) {
            Some(model) => {
                let wanted =
                    Wanted { avoid: &self.tried, local_only: self.call.from_peer, prefer_local: self.target.balanced };
                model.choose(wanted, epoch_ms())
            }
            None => Choice::None,
        };
        if matches!(choice, Choice::None) {
            if let Some(held) = overloaded.take() {
                return self.give(held, client);
            }
            return Step::Ask(Failure::new(Reason::NoRoute, None, String::new()));
        }
        self.take(choice, body, client, overloaded).await
    }

    fn resolve_vmodel(&mut self) {
        if let Some(id) = self.call.plane.table.alias(&self.target.subject.id) {
            self.target.model_id = Some((*id).into());
        }
    }

    async fn at_endpoint(
        &mut self,
        id: u32,
        body: &mut RequestBody<'_>,
        client: &mut Client,
        overloaded: &mut Option<Box<Held>>,
    ) -> Step {
        match self.call.plane.endpoint(id) {
            None => {
                self.tried.push(id);
                Step::Ask(Failure::new(Reason::Unreachable, Some(id), format!("endpoint {id} was removed")))
            }
            Some(endpoint) => {
                let choice = self.call.plane.table.take_at(self.target.model_id(), &endpoint, epoch_ms());
                self.take(choice, body, client, overloaded).await
            }
        }
    }

    /// Waits in the queue if need be, and sends the request to the chosen copy.
    async fn take(
        &mut self,
        choice: Choice,
        body: &mut RequestBody<'_>,
        client: &mut Client,
        overloaded: &mut Option<Box<Held>>,
    ) -> Step {
        let lease = match choice {
            Choice::Ready(lease) => lease,
            Choice::None => return Step::Route,
            Choice::Full => return self.overload(client),
            Choice::Queued(ticket) => {
                let counters = &self.call.state.counters;
                if let Some(lease) = ticket.lease() {
                    self.call.plane.table.report(lease.model());
                }
                let since = Instant::now();
                counters.queued.fetch_add(1, Ordering::Relaxed);
                let granted = client.unless_ended(ticket.wait()).await;
                counters.queued.fetch_sub(1, Ordering::Relaxed);
                self.observe_queue_delay(since);
                match granted {
                    Ok(Some(lease)) => lease,
                    Ok(None) => return Step::Route,
                    Err(ended) => return Step::Done(finish_ended(client, ended)),
                }
            }
        };
        if lease.endpoint().is_removed() {
            let id = lease.endpoint().id;
            self.tried.push(id);
            return Step::Route;
        }
        self.send(&lease, body, client, overloaded).await
    }

    fn observe_queue_delay(&self, since: Instant) {
        let (model_id, vmodel_id) = (self.target.model_id(), self.target.vmodel_id().unwrap_or(""));
        let series = self.call.state.metrics.model_series(model_id, vmodel_id, epoch_ms());
        series.observe(Metric::QueueDelay, since.elapsed().as_secs_f64() * 1000.0);
    }

    /// The local copy's queue is full, and there is no other copy.
    fn overload(&self, client: &mut Client) -> Step {
        let mut status = Status::new(Code::RESOURCE_EXHAUSTED, "Model queue overload");
        status.control = self.call.from_peer.then_some(OVERLOAD);
        client.status(&status);
        Step::Done(Ending::without_answer(status.code))
    }

    fn give(&self, held: Box<Held>, client: &mut Client) -> Step {
        let code = held.code();
        held.give(client);
        Step::Done(Ending { code, response_bytes: (code == Code::OK).then_some(0) })
    }

    async fn send(
        &mut self,
        lease: &Lease,
        body: &mut RequestBody<'_>,
        client: &mut Client,
        overloaded: &mut Option<Box<Held>>,
    ) -> Step {
        let call = self.call;
        let endpoint = lease.endpoint();
        let model_id = self.target.model_id.as_deref().unwrap_or("");
        let mut injector = None;
        let headers = if endpoint.kind == EndpointKind::Runtime {
            call.plane.table.report(lease.model());
            let Some(path) = call.policy.runtime_path(call.method()) else {
                return self.refuse(&call.not_permitted(), client);
            };
            if !path.is_empty() {
                injector = Some(self.injector(path, model_id));
            }
            metadata::for_runtime(call.headers, model_id)
        } else {
            if call.hops >= call.plane.settings.max_hops {
                let message = format!("the request was forwarded {} times and may not be again", call.hops);
                return self.refuse(&Status::new(Code::UNAVAILABLE, message), client);
            }
            metadata::for_peer(call.headers, model_id, self.target.vmodel_id(), call.hops + 1)
        };
        let upstream = match client.unless_ended(endpoint.acquire(call.shard)).await {
            Ok(Ok(upstream)) => upstream,
            Ok(Err(Unreachable(why))) => {
                self.tried.push(endpoint.id);
                return Step::Ask(Failure::new(Reason::Unreachable, Some(endpoint.id), why));
            }
            Err(ended) => return Step::Done(finish_ended(client, ended)),
        };
        let request = call.request(endpoint, headers, client);
        let rules = Rules {
            kind: endpoint.kind,
            status_rules: &call.policy.status_rules,
            max_message_bytes: call.plane.settings.max_message_bytes,
        };
        let began = Instant::now();
        if endpoint.kind == EndpointKind::Peer {
            call.state.counters.forwarded.fetch_add(1, Ordering::Relaxed);
        }
        let outcome = exchange(upstream.sender(), request, injector, rules, body, client).await;
        if let (EndpointKind::Runtime, Some(code)) = (endpoint.kind, outcome.code()) {
            let vmodel_id = self.target.vmodel_id().unwrap_or("");
            let series = call.state.metrics.series(call.method(), code, model_id, vmodel_id, epoch_ms());
            series.observe(Metric::InvokeModel, began.elapsed().as_secs_f64() * 1000.0);
        }
        if matches!(outcome, Outcome::Unprocessed(_)) {
            upstream.retire();
        }
        self.judge(endpoint, outcome, body, client, overloaded)
    }

    fn injector(&self, path: &[u32], model_id: &str) -> Injector {
        let encoding = self.call.headers.get(GRPC_ENCODING).and_then(|value| value.to_str().ok()).unwrap_or("identity");
        let limit = self.call.plane.settings.max_message_bytes;
        Injector::new(path.to_vec(), model_id.into(), encoding.to_owned(), limit)
    }

    fn refuse(&self, status: &Status, client: &mut Client) -> Step {
        client.status(status);
        Step::Done(Ending::without_answer(status.code))
    }

    /// Decides what an attempt's end means for the request.
    fn judge(
        &mut self,
        endpoint: &Endpoint,
        outcome: Outcome,
        body: &mut RequestBody<'_>,
        client: &mut Client,
        overloaded: &mut Option<Box<Held>>,
    ) -> Step {
        match outcome {
            Outcome::Answered { code, response_bytes } => {
                return Step::Done(Ending { code, response_bytes: (code == Code::OK).then_some(response_bytes) });
            }
            Outcome::Ended(ended) => return Step::Done(finish_ended(client, ended)),
            Outcome::Refused(status) => return self.refuse(&status, client),
            Outcome::Unprocessed(why) => {
                if self.replays < MAX_REPLAYS && body.rewind() {
                    self.replays += 1;
                    self.call.state.counters.replayed.fetch_add(1, Ordering::Relaxed);
                    return if endpoint.is_removed() { Step::Route } else { Step::Endpoint(endpoint.id) };
                }
                self.attempts += 1;
                self.tried.push(endpoint.id);
                return Step::Ask(Failure::new(Reason::Unreachable, Some(endpoint.id), why));
            }
            _ => {}
        }
        self.attempts += 1;
        self.tried.push(endpoint.id);
        match outcome {
            Outcome::Broken(why) => Step::Ask(Failure::new(Reason::Broken, Some(endpoint.id), why)),
            Outcome::NotHere => Step::Ask(Failure::new(Reason::NotHere, Some(endpoint.id), String::new())),
            Outcome::Overloaded(held) if body.rewind() => {
                *overloaded = Some(held);
                Step::Route
            }
            Outcome::Overloaded(held) => self.give(held, client),
            Outcome::Matched { reason, code, message, held } => Step::Ask(Box::new(Failure {
                reason,
                endpoint: Some(endpoint.id),
                code: Some(code),
                message,
                held: Some(held),
            })),
            _ => unreachable!("all other outcomes were dealt with above"),
        }
    }

    async fn ask(&mut self, failure: Box<Failure>, body: &mut RequestBody<'_>, client: &mut Client) -> Step {
        self.asks += 1;
        if self.asks > MAX_ASKS {
            let message = format!("no copy was found in {MAX_ASKS} decisions; last: {}", failure.reason.name());
            return self.refuse(&Status::new(Code::UNAVAILABLE, message), client);
        }
        let waiter = self.call.plane.hub.ask(self.question(&failure, client));
        let answer = match client.unless_ended(waiter.answer()).await {
            Ok(Some(answer)) => answer,
            Ok(None) => {
                let status = Status::new(Code::UNAVAILABLE, "the instance is being stopped");
                return self.refuse(&status, client);
            }
            Err(ended) => return Step::Done(finish_ended(client, ended)),
        };
        let (step, model_id) = match answer {
            Answer::Status(status) => return self.refuse(&status, client),
            Answer::Held => {
                return match failure.held {
                    Some(held) => self.give(held, client),
                    None => self.refuse(&Status::new(Code::INTERNAL, "there is no answer to give back"), client),
                };
            }
            Answer::Route { model_id } => (Step::Route, model_id),
            Answer::Endpoint { endpoint, model_id } => (Step::Endpoint(endpoint), model_id),
        };
        if !model_id.is_empty() {
            self.target.model_id = Some(model_id.into());
        } else if self.target.subject.is_vmodel {
            // The vmodel may have moved on while Python thought about it.
            self.resolve_vmodel();
        }
        if body.rewind() {
            return step;
        }
        match failure.held {
            Some(held) => self.give(held, client),
            None => {
                let why = format!("the request is too large to be sent again after: {}", failure.reason.name());
                self.refuse(&Status::new(Code::UNAVAILABLE, why), client)
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
            from_peer: self.call.from_peer,
            method: self.call.method().to_owned(),
            endpoint: failure.endpoint.map_or(-1, i64::from),
            code: failure.code.map_or(-1, |code| i32::from(code.number())),
            message: failure.message.clone(),
            attempt: self.attempts,
            tried: self.tried.clone(),
            balanced: self.target.balanced,
            deadline_ms: client.deadline.map_or(-1, left),
        }
    }
}
