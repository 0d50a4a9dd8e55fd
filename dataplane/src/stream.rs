//! One request from its head to its answer: what it is, and whether it may pass.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::uri::{PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version, header};
use tokio::time::Instant as Deadline;

use crate::body::{BodyError, RequestBody};
use crate::calls::{Incoming, Reply};
use crate::client::{Client, Ended};
use crate::clock::epoch_ms;
use crate::endpoint::{Endpoint, EndpointKind, Unreachable};
use crate::exchange::{Outcome, Rules, exchange};
use crate::fanout::{Several, fan_out};
use crate::frames::framed;
use crate::grpc::{Code, GRPC_ENCODING, GRPC_TIMEOUT, Status};
use crate::journal;
use crate::journey::{Ending, Journey, MAX_REPLAYS, Target};
use crate::metadata::{self, FROM_PEER, Ids, Subject};
use crate::metrics::{Metric, Series};
use crate::plane::{Plane, ShardState};
use crate::policy::{Destination, Policy};
use crate::tap::Tapping;
use crate::timeout;
use crate::trace::Trace;

/// One request, as its head tells it.
#[derive(Clone)]
pub struct Call {
    pub plane: Arc<Plane>,
    pub shard: usize,
    pub policy: Arc<Policy>,
    path: PathAndQuery,
    pub headers: HeaderMap,
    pub arrived: Instant,
    /// It came in by a listener for peers.
    peers: bool,
    /// A peer forwarded it.
    pub from_peer: bool,
    pub hops: u32,
    pub trace: Trace,
}

/// Serves one stream of a listener; None where it was answered at once.
///
/// Boxed here, since the runtime copies what it is given several times before it has its place.
pub fn serve(
    plane: &Arc<Plane>,
    shard: usize,
    peers: bool,
    request: Request<RecvStream>,
    respond: SendResponse<Bytes>,
) -> Option<Pin<Box<impl Future<Output = ()> + Send + use<>>>> {
    let (mut parts, recv) = request.into_parts();
    let counters = &plane.shards[shard].counters;
    counters.requests.fetch_add(1, Ordering::Relaxed);

    let arrived = Instant::now();
    let timeout = parts.headers.get(GRPC_TIMEOUT).map(|value| timeout::parse(value.as_bytes()));
    let deadline = timeout.flatten().and_then(|timeout| arrived.checked_add(timeout));
    let mut client = Client::new(respond, deadline.map(Into::into));
    if let Some(response) = not_grpc(&parts.method, &parts.headers) {
        client.head(response, true);
        return None;
    }
    let path = parts.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    let size = metadata::size_of(&parts.headers, path.as_str());
    let most = plane.settings.max_metadata_bytes;
    if size > most {
        let message = format!("received metadata size exceeds limit ({size} vs. {most})");
        client.status(&Status::new(Code::RESOURCE_EXHAUSTED, message));
        return None;
    }
    if timeout == Some(None) {
        let message = "grpc-timeout must be 1 to 8 digits and one of H, M, S, m, u, n";
        client.status(&Status::new(Code::INVALID_ARGUMENT, message));
        return None;
    }
    let policy = plane.policy();
    let call = Counted(Call {
        plane: Arc::clone(plane),
        shard,
        trace: Trace::enter(&policy, path.path(), peers, &mut parts.headers, arrived),
        policy,
        path,
        arrived,
        peers,
        from_peer: peers && parts.headers.contains_key(FROM_PEER),
        hops: if peers { metadata::hops_of(&parts.headers) } else { 0 },
        headers: parts.headers,
    });
    counters.streams.fetch_add(1, Ordering::Relaxed);
    Some(Box::pin(async move {
        let Counted(call) = &call;
        let mut body = RequestBody::new(recv, &call.plane.budget, call.plane.settings.max_message_bytes);
        call.run(&mut body, &mut client).await;
    }))
}

/// A call in the count of streams under way.
struct Counted(Call);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.state().counters.streams.fetch_sub(1, Ordering::Relaxed);
        self.0.plane.traces.keep(&self.0.trace);
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

impl Call {
    /// The same request as one of no trace.
    pub fn untraced(&self) -> Call {
        Call { trace: Trace::default(), ..self.clone() }
    }

    pub fn state(&self) -> &ShardState {
        &self.plane.shards[self.shard]
    }

    /// The full method name.
    pub fn method(&self) -> &str {
        self.path.path().trim_start_matches('/')
    }

    /// How messages are compressed that say they are.
    pub fn encoding(&self) -> &str {
        self.headers.get(GRPC_ENCODING).and_then(|value| value.to_str().ok()).unwrap_or("identity")
    }

    pub fn not_permitted(&self) -> Status {
        Status::new(Code::UNIMPLEMENTED, format!("Method not found or not permitted: {}", self.method()))
    }

    /// The head for the next hop.
    pub fn request(&self, endpoint: &Endpoint, mut headers: HeaderMap, deadline: Option<Deadline>) -> Request<()> {
        if let Some(deadline) = deadline {
            let left = deadline.saturating_duration_since(Deadline::now());
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

    async fn run(&self, body: &mut RequestBody<'_>, client: &mut Client) {
        match self.policy.destination(self.path.path(), self.peers) {
            Destination::Forbidden => client.status(&self.not_permitted()),
            Destination::Call => Box::pin(self.ask_python(body, client)).await,
            Destination::Control(endpoint) => Box::pin(self.control(endpoint, body, client)).await,
            Destination::Model => self.infer(body, client).await,
        }
    }

    /// A management call that Python answers itself.
    async fn ask_python(&self, body: &mut RequestBody<'_>, client: &mut Client) {
        let read = poll_fn(|cx| body.poll_message(cx, self.encoding()));
        let message = match client.unless_ended(read).await {
            Ok(Ok(message)) => message,
            Ok(Err(BodyError::Refused(status))) => return client.status(&status),
            Ok(Err(BodyError::Gone)) => {
                client.end(Ended::Gone);
                return;
            }
            Err(ended) => {
                client.end(ended);
                return;
            }
        };
        self.trace.serves(|| self.method(), self.from_peer);
        let call =
            Incoming { method: self.method().to_owned(), message, context: self.context(), trace: self.trace.span() };
        let awaited = self.plane.calls.submit(call, &self.plane.hub.wake);
        match client.unless_ended(awaited.reply()).await {
            Ok(Some(Reply::Message(message))) => {
                let ok = Status::new(Code::OK, "");
                client.head(Status::head(), false);
                // HTTP/2 keeps what the client does not take at once.
                client.data(framed(&message));
                client.trailers(ok.trailers());
                self.trace.ended(Code::OK, || ("", ""), "");
            }
            Ok(Some(Reply::Status(status))) => {
                self.trace.ended(status.code, || ("", ""), &status.message);
                client.status(&status);
            }
            Ok(None) => client.status(&Status::new(Code::UNAVAILABLE, "the instance is being closed")),
            Err(ended) => {
                client.end(ended);
            }
        }
    }

    /// A management call: to the server of this process, and no further.
    async fn control(&self, endpoint: &Arc<Endpoint>, body: &mut RequestBody<'_>, client: &mut Client) {
        let mut replays = 0;
        let status = loop {
            let upstream = match client.unless_ended(endpoint.acquire(self.shard)).await {
                Ok(Ok(upstream)) => upstream,
                Ok(Err(Unreachable(why))) => break Status::new(Code::UNAVAILABLE, why),
                Err(ended) => {
                    client.end(ended);
                    return;
                }
            };
            let rules = Rules {
                kind: EndpointKind::Control,
                status_rules: &[],
                max_message_bytes: self.plane.settings.max_message_bytes,
            };
            let deadline = client.deadline;
            let head = || {
                let headers = metadata::for_control(&self.headers);
                (upstream.sender(), self.request(endpoint, headers, deadline))
            };
            match exchange(head, None, rules, body, client).await {
                Outcome::Unprocessed { why, is_over } => {
                    if is_over {
                        upstream.retire();
                    }
                    replays += 1;
                    if replays > MAX_REPLAYS || !body.rewind() {
                        break Status::new(Code::UNAVAILABLE, why);
                    }
                    self.state().counters.replayed.fetch_add(1, Ordering::Relaxed);
                }
                Outcome::Broken(why) => break Status::new(Code::UNAVAILABLE, why),
                Outcome::Refused(status) => break status,
                Outcome::Ended(ended) => {
                    client.end(ended);
                    return;
                }
                // The rest cannot come from a control server.
                _ => return,
            }
        };
        client.status(&status);
    }

    async fn infer(&self, body: &mut RequestBody<'_>, client: &mut Client) {
        self.trace.serves(|| self.method(), self.from_peer);
        let target = match self.errand(body, client).await {
            Ok(Errand::One(target)) => target,
            Ok(Errand::Several(several)) => return Box::pin(self.infer_several(several, body, client)).await,
            Err(BodyError::Refused(status)) => {
                self.trace.ended(status.code, || ("", ""), &status.message);
                if !self.peers {
                    self.log_failure(status.code, ("", ""), &status.message);
                }
                return client.status(&status);
            }
            Err(BodyError::Gone) => {
                client.end(Ended::Gone);
                return;
            }
        };
        let mut journey = Journey::new(self, target);
        let mirrored = journey.resolve();
        if let Some(mirrored) = &mirrored {
            mirrored.prepare(&self.plane, body, client);
        }
        let tapping = if self.peers { None } else { Tapping::begin(self, journey.ids(), body, client) };
        let ending = journey.run(body, client).await;
        self.trace.ended(ending.code, || journey.ids(), "");
        let ended = ending.answered.as_ref().map_or_else(Instant::now, |answered| answered.at);
        if !self.peers {
            match &ending.answered {
                Some(answered) => self.observe(&ending, &answered.series, ended, body),
                None => self.observe(&ending, &journey.series(ending.code, epoch_ms()), ended, body),
            }
            self.log_failure(ending.code, journey.ids(), "");
        }
        if let Some(tapping) = tapping {
            tapping.end(self, journey.ids(), ending.code, ended, body, client);
        }
        if let Some(mirrored) = mirrored {
            mirrored.send(self, journey.model_id(), &ending, body, client);
        }
    }

    async fn infer_several(&self, several: Several, body: &mut RequestBody<'_>, client: &mut Client) {
        let (model_ids, vmodel_ids) = several.ids();
        let tapping = if self.peers { None } else { Tapping::begin(self, ("", ""), body, client) };
        let (ending, why) = fan_out(self, several, body, client).await;
        let series = self.state().metrics.series(self.method(), ending.code, "", "", epoch_ms());
        let ended = Instant::now();
        self.observe(&ending, &series, ended, body);
        self.trace.ended(ending.code, || (&model_ids, &vmodel_ids), &why);
        self.log_failure(ending.code, (&model_ids, &vmodel_ids), &why);
        if let Some(tapping) = tapping {
            // Of several models none is the payloads' one.
            tapping.end(self, ("", ""), ending.code, ended, body, client);
        }
    }

    /// What the log is to say of this request's own headers.
    pub fn context(&self) -> journal::Context {
        let mut context = self.policy.log.context(&self.headers);
        if let Some(span) = self.trace.span() {
            context.push(("trace_id".to_owned(), span.trace_hex()));
            context.push(("span_id".to_owned(), span.span_hex()));
        }
        context
    }

    /// Has the local runtime's part in this request logged, where that is wanted.
    pub fn log_invocation(&self, ids: (&str, &str)) {
        if self.policy.log.each_invocation {
            self.log(journal::Kind::Invoked, Code::OK, ids, "");
        }
    }

    fn log_failure(&self, code: Code, ids: (&str, &str), message: &str) {
        if code != Code::OK {
            self.log(journal::Kind::Failed, code, ids, message);
        }
    }

    fn log(&self, kind: journal::Kind, code: Code, (model_id, vmodel_id): (&str, &str), message: &str) {
        self.plane.journal.add(|| journal::Entry {
            kind,
            method: self.method().to_owned(),
            model_id: model_id.to_owned(),
            vmodel_id: vmodel_id.to_owned(),
            code,
            message: message.to_owned(),
            milliseconds: self.arrived.elapsed().as_secs_f64() * 1000.0,
            context: self.context(),
        });
    }

    fn observe(&self, ending: &Ending, series: &Series, at: Instant, body: &RequestBody<'_>) {
        self.trace.observe(series, Metric::ApiRequest, (at - self.arrived).as_secs_f64() * 1000.0);
        self.trace.observe(series, Metric::RequestSize, body.message_bytes() as f64);
        if let Some(bytes) = ending.response_bytes {
            self.trace.observe(series, Metric::ResponseSize, bytes as f64);
        }
    }

    /// Finds out which models the request is for, or why it is refused.
    async fn errand(&self, body: &mut RequestBody<'_>, client: &mut Client) -> Result<Errand, BodyError> {
        let balanced = metadata::is_balanced(&self.headers);
        if self.hops > self.plane.settings.max_hops {
            let message = format!("the request was forwarded more than {} times", self.plane.settings.max_hops);
            return Err(BodyError::Refused(Status::new(Code::UNAVAILABLE, message)));
        }
        if self.from_peer {
            let (model, via) = metadata::resolved_of(&self.headers).map_err(BodyError::Refused)?;
            return Ok(Errand::One(Target::resolved(model, via, balanced)));
        }
        if !self.policy.allows(self.method()) {
            return Err(BodyError::Refused(self.not_permitted()));
        }
        if let Some(rpc) = self.policy.rpc(self.method()) {
            let extract = poll_fn(|cx| body.poll_extract(cx, &rpc.path, self.encoding()));
            let found = match client.unless_ended(extract).await {
                Ok(found) => found?,
                Err(Ended::Gone) => return Err(BodyError::Gone),
                Err(Ended::Expired) => return Err(BodyError::Refused(Status::expired())),
            };
            if let Some(id) = found {
                let what = if rpc.is_vmodel { "vmodel-id" } else { "model-id" };
                let id = metadata::non_empty(&id, what).map_err(BodyError::Refused)?;
                return Ok(Errand::One(Target::new(Subject { id, is_vmodel: rpc.is_vmodel }, balanced)));
            }
        }
        let (ids, is_vmodel) = metadata::ids_of(&self.headers).map_err(BodyError::Refused)?;
        let target = |id| Target::new(Subject { id, is_vmodel }, balanced);
        Ok(match ids {
            Ids::One(id) => Errand::One(target(id)),
            Ids::Several(ids) => Errand::Several(Several {
                targets: ids.into_iter().map(target).collect(),
                all_required: metadata::are_all_required(&self.headers),
            }),
        })
    }
}

/// What a request is for.
enum Errand {
    One(Target),
    Several(Several),
}
