//! What Python sees. `_dataplane.pyi` is the contract.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use http::HeaderName;
use pyo3::exceptions::{PyOSError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use tokio::sync::mpsc;

use std::sync::atomic::Ordering;
use std::sync::mpsc::Sender;

use crate::address::Address;
use crate::alias::Alias;
use crate::calls::{Incoming, Reply};
use crate::clock::epoch_ms;
use crate::connection::Side;
use crate::endpoint::EndpointKind;
use crate::exposition;
use crate::grpc::{Code, Status};
use crate::histogram::{Reading, SIZE_BOUNDS, TIME_BOUNDS};
use crate::hub::{Answer, Reason};
use crate::journal::Wanted;
use crate::lock::lock;
use crate::metadata::NOT_HERE;
use crate::metrics::{Group, Metric, Metrics, collect};
use crate::payload::Queue;
use crate::payload_face::PayloadQueue;
use crate::plane::{Drain, Plane};
use crate::policy::{Control, Rpc, StatusRule};
use crate::settings::Settings;
use crate::shard::{Command, Inbox, start, start_upkeep};
use crate::tap::{Tap, Taps};
use crate::trace_context::{Sampler, SpanContext};
use crate::trace_values::{TracedRequest, TracedStep};
use crate::values::{Ask, Call, Comparison, Difference, HistogramSample, LogEntry, Totals, Usage};

/// With its last request answered, a connection ends as soon as the other side has read so; one that is dead never does.
const FAREWELL: Duration = Duration::from_secs(1);

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<DataPlane>()?;
    module.add_class::<Ask>()?;
    module.add_class::<Call>()?;
    module.add_class::<LogEntry>()?;
    module.add_class::<Usage>()?;
    module.add_class::<Comparison>()?;
    module.add_class::<Difference>()?;
    module.add_class::<HistogramSample>()?;
    module.add_class::<TracedRequest>()?;
    module.add_class::<TracedStep>()?;
    module.add_class::<Totals>()?;
    module.add_class::<Scrape>()?;
    module.add("TIME_BOUNDS_MS", TIME_BOUNDS.to_vec())?;
    module.add("SIZE_BOUNDS_BYTES", SIZE_BOUNDS.to_vec())?;
    Ok(())
}

/// The threads, until they are closed.
#[derive(Default)]
struct Threads {
    inboxes: Vec<Inbox>,
    handles: Vec<JoinHandle<()>>,
    /// Ends their upkeep when it is dropped.
    upkeep: Option<Sender<()>>,
}

#[pyclass(frozen, module = "mesh.dataplane")]
pub struct DataPlane {
    plane: Arc<Plane>,
    threads: Mutex<Threads>,
}

#[pyclass(frozen, module = "mesh.dataplane")]
pub struct Scrape(Mutex<exposition::Scrape>);

#[pymethods]
impl Scrape {
    fn read<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        let piece = py.detach(|| lock(&self.0).read());
        PyBytes::new(py, &piece)
    }
}

fn bad(argument: &str, why: impl std::fmt::Display) -> PyErr {
    PyValueError::new_err(format!("{argument}: {why}"))
}

fn positive(argument: &str, value: i64) -> PyResult<u64> {
    u64::try_from(value)
        .ok()
        .filter(|&value| value > 0)
        .ok_or_else(|| bad(argument, format!("must be positive, not {value}")))
}

fn not_negative(argument: &str, value: i64) -> PyResult<u64> {
    u64::try_from(value).map_err(|_| bad(argument, format!("must not be negative, but is {value}")))
}

fn size(argument: &str, value: i64) -> PyResult<usize> {
    positive(argument, value).map(|value| usize::try_from(value).unwrap_or(usize::MAX))
}

fn address(argument: &str, text: &str) -> PyResult<Address> {
    Address::parse(text).map_err(|why| bad(argument, why))
}

fn normalized(prefixes: Vec<String>) -> Vec<String> {
    prefixes.into_iter().map(|prefix| if prefix.starts_with('/') { prefix } else { format!("/{prefix}") }).collect()
}

fn status_of(code: i64, message: &str, details: &[u8]) -> PyResult<Status> {
    let code = u32::try_from(code)
        .ok()
        .filter(|code| (1..=16).contains(code))
        .ok_or_else(|| bad("code", format!("status code {code} is not in 1 to 16")))?;
    let mut status = Status::new(Code::new(code), message);
    status.details = bytes::Bytes::copy_from_slice(details);
    Ok(status)
}

fn field_path(argument: &str, method: &str, path: Vec<i64>) -> PyResult<Vec<u32>> {
    let number = |field: i64| {
        u32::try_from(field)
            .ok()
            .filter(|field| (1..1 << 29).contains(field))
            .ok_or_else(|| bad(argument, format!("field number {field} of {method:?} is not in 1 to 536870911")))
    };
    path.into_iter().map(number).collect()
}

fn method_name(name: String) -> String {
    name.strip_prefix('/').map(str::to_owned).unwrap_or(name)
}

#[pymethods]
impl DataPlane {
    #[new]
    #[pyo3(signature = (
        *, shards=1, max_message_bytes=16 << 20, max_metadata_bytes=8 << 10, max_retained_bytes=256 << 20,
        max_payload_bytes=64 << 20, max_hops=3, multi_parallelism=4, connect_timeout_ms=2_000, keepalive_interval_ms=10_000, max_connection_age_ms=0,
        max_connection_age_grace_ms=0, per_model_metrics=false, max_model_series=10_000,
        model_series_idle_ms=3_600_000,
    ))]
    #[allow(clippy::too_many_arguments)]
    fn new(
        shards: i64,
        max_message_bytes: i64,
        max_metadata_bytes: i64,
        max_retained_bytes: i64,
        max_payload_bytes: i64,
        max_hops: i64,
        multi_parallelism: i64,
        connect_timeout_ms: i64,
        keepalive_interval_ms: i64,
        max_connection_age_ms: i64,
        max_connection_age_grace_ms: i64,
        per_model_metrics: bool,
        max_model_series: i64,
        model_series_idle_ms: i64,
    ) -> PyResult<DataPlane> {
        let shards = size("shards", shards)?;
        if shards > 256 {
            return Err(bad("shards", format!("must be at most 256, not {shards}")));
        }
        let settings = Settings {
            shards,
            max_message_bytes: size("max_message_bytes", max_message_bytes)?,
            max_metadata_bytes: size("max_metadata_bytes", max_metadata_bytes)?,
            max_retained_bytes: usize::try_from(not_negative("max_retained_bytes", max_retained_bytes)?)?,
            max_payload_bytes: usize::try_from(not_negative("max_payload_bytes", max_payload_bytes)?)?,
            max_hops: u32::try_from(positive("max_hops", max_hops)?)?,
            multi_parallelism: size("multi_parallelism", multi_parallelism)?,
            connect_timeout: Duration::from_millis(positive("connect_timeout_ms", connect_timeout_ms)?),
            keepalive_interval: Duration::from_millis(positive("keepalive_interval_ms", keepalive_interval_ms)?),
            max_connection_age: Duration::from_millis(not_negative("max_connection_age_ms", max_connection_age_ms)?),
            max_connection_age_grace: Duration::from_millis(not_negative(
                "max_connection_age_grace_ms",
                max_connection_age_grace_ms,
            )?),
            per_model_metrics,
            max_model_series: usize::try_from(not_negative("max_model_series", max_model_series)?)?,
            model_series_idle: Duration::from_millis(positive("model_series_idle_ms", model_series_idle_ms)?),
        };
        let plane = Arc::new(Plane::new(settings)?);
        let mut threads = Threads::default();
        let mut receivers = Vec::new();
        for _ in 0..shards {
            let (inbox, commands) = mpsc::unbounded_channel();
            threads.inboxes.push(inbox);
            receivers.push(commands);
        }
        for (index, commands) in receivers.into_iter().enumerate() {
            threads.handles.push(start(Arc::clone(&plane), index, threads.inboxes.clone(), commands)?);
        }
        let (upkeep, handle) = start_upkeep(threads.inboxes.clone())?;
        threads.upkeep = Some(upkeep);
        threads.handles.push(handle);
        Ok(DataPlane { plane, threads: Mutex::new(threads) })
    }

    #[getter]
    fn event_fd(&self) -> i32 {
        self.plane.hub.wake.fd()
    }

    #[pyo3(signature = (address, *, peers))]
    fn listen(&self, py: Python<'_>, address: &str, peers: bool) -> PyResult<String> {
        let parsed = self::address("address", address)?;
        let listening = py.detach(|| parsed.listen()).map_err(|error| {
            let reason = format!("cannot listen on {address}: {error}");
            match error.raw_os_error() {
                Some(number) => PyOSError::new_err((number, reason)),
                None => PyOSError::new_err(reason),
            }
        })?;
        let bound = listening.address()?;
        let side = if peers { Side::Peers } else { Side::Clients };
        let threads = lock(&self.threads);
        let sent = threads.inboxes.first().map(|inbox| inbox.send(Command::Listen { listening, side }));
        match sent {
            Some(Ok(())) => Ok(bound),
            _ => Err(PyRuntimeError::new_err("the data plane is closed")),
        }
    }

    #[pyo3(signature = (address, prefixes, peer_prefixes, calls=Vec::new()))]
    fn set_control(
        &self,
        address: &str,
        prefixes: Vec<String>,
        peer_prefixes: Vec<String>,
        calls: Vec<String>,
    ) -> PyResult<()> {
        let address = self::address("address", address)?;
        let endpoint = self.plane.add_endpoint(EndpointKind::Control, "control", address);
        let control = Control {
            endpoint,
            prefixes: normalized(prefixes),
            peer_prefixes: normalized(peer_prefixes),
            calls: normalized(calls).into_iter().collect(),
        };
        let mut old = None;
        self.plane.change_policy(|policy| old = policy.control.replace(control));
        if let Some(old) = old {
            old.endpoint.remove();
        }
        Ok(())
    }

    #[pyo3(signature = (rpcs, allow_other=true))]
    fn set_rpcs(&self, rpcs: Option<HashMap<String, (Vec<i64>, bool)>>, allow_other: bool) -> PyResult<()> {
        let parse = |(method, (path, is_vmodel)): (String, (Vec<i64>, bool))| {
            let path = field_path("rpcs", &method, path)?;
            Ok((method_name(method), Rpc { path, is_vmodel }))
        };
        let rpcs = rpcs.map(|rpcs| rpcs.into_iter().map(parse).collect::<PyResult<_>>()).transpose()?;
        self.plane.change_policy(|policy| {
            policy.rpcs = rpcs;
            policy.allow_other_rpcs = allow_other;
        });
        Ok(())
    }

    #[pyo3(signature = (methods, allow_any=false))]
    fn set_runtime_methods(&self, methods: HashMap<String, Vec<i64>>, allow_any: bool) -> PyResult<()> {
        let parse = |(method, path): (String, Vec<i64>)| {
            let path = field_path("methods", &method, path)?;
            Ok((method_name(method), path))
        };
        let methods = methods.into_iter().map(parse).collect::<PyResult<_>>()?;
        self.plane.change_policy(|policy| {
            policy.runtime_methods = methods;
            policy.allow_any_runtime_method = allow_any;
        });
        Ok(())
    }

    fn set_status_rules(&self, rules: Vec<(i64, String, String, String)>) -> PyResult<()> {
        let parse = |(code, prefix, suffix, reason): (i64, String, String, String)| {
            let code = u32::try_from(code)
                .ok()
                .filter(|code| (1..=16).contains(code))
                .ok_or_else(|| bad("rules", format!("status code {code} is not in 1 to 16")))?;
            let reason = match reason.as_str() {
                "lost" => Reason::Lost,
                "unavailable" => Reason::Unavailable,
                "exhausted" => Reason::Exhausted,
                other => {
                    return Err(bad("rules", format!("reason {other:?} is none of lost, unavailable, exhausted")));
                }
            };
            Ok(StatusRule { code: Code::new(code), prefix, suffix, reason })
        };
        let rules = rules.into_iter().map(parse).collect::<PyResult<Vec<_>>>()?;
        self.plane.change_policy(|policy| policy.status_rules = rules);
        Ok(())
    }

    fn add_endpoint(&self, address: &str, kind: &str, name: &str) -> PyResult<u32> {
        let kind = match kind {
            "runtime" => EndpointKind::Runtime,
            "peer" => EndpointKind::Peer,
            other => return Err(bad("kind", format!("{other:?} is neither \"runtime\" nor \"peer\""))),
        };
        Ok(self.plane.add_endpoint(kind, name, self::address("address", address)?).id)
    }

    fn remove_endpoint(&self, endpoint: i64) {
        if let Ok(id) = u32::try_from(endpoint) {
            self.plane.remove_endpoint(id);
        }
    }

    #[pyo3(signature = (model_id, endpoints, *, max_concurrency=0, max_queued=0))]
    fn set_route(&self, model_id: &str, endpoints: Vec<u32>, max_concurrency: i64, max_queued: i64) -> PyResult<()> {
        let endpoints = self.endpoints(&endpoints)?;
        let max_concurrency = u32::try_from(not_negative("max_concurrency", max_concurrency)?)?;
        self.plane.table.set_route(non_empty("model_id", model_id)?, &endpoints, max_concurrency, max_queued);
        Ok(())
    }

    fn set_routes(&self, routes: Vec<(String, Vec<u32>)>) -> PyResult<()> {
        let resolve = |(model_id, endpoints): &(String, Vec<u32>)| {
            non_empty("routes", model_id)?;
            self.endpoints(endpoints)
        };
        let resolved = routes.iter().map(resolve).collect::<PyResult<Vec<_>>>()?;
        for ((model_id, _), endpoints) in routes.iter().zip(&resolved) {
            self.plane.table.set_route(model_id, endpoints, 0, 0);
        }
        Ok(())
    }

    fn remove_route(&self, model_id: &str) {
        self.plane.table.remove_route(model_id);
    }

    fn route(&self, model_id: &str) -> Vec<u32> {
        self.plane.table.get(model_id).map(|model| model.endpoints()).unwrap_or_default()
    }

    fn close_local(&self, model_id: &str) -> u32 {
        self.plane.table.close_local(model_id)
    }

    fn local_in_flight(&self, model_id: &str) -> u32 {
        self.plane.table.get(model_id).map_or(0, |model| model.local_in_flight())
    }

    #[pyo3(signature = (vmodel_id, targets, mirror=None))]
    fn set_alias(&self, vmodel_id: &str, targets: Vec<(String, i64)>, mirror: Option<(String, f64)>) -> PyResult<()> {
        non_empty("vmodel_id", vmodel_id)?;
        let weighted = |(model_id, weight): (String, i64)| {
            non_empty("targets", &model_id)?;
            let number = u32::try_from(weight)
                .map_err(|_| bad("targets", format!("weight {weight} of {model_id:?} is not in 0 to {}", u32::MAX)))?;
            Ok((model_id, number))
        };
        let targets = targets.into_iter().map(weighted).collect::<PyResult<Vec<_>>>()?;
        if targets.iter().all(|(_, weight)| *weight == 0) {
            return Err(bad("targets", "there must be a model with a weight above 0"));
        }
        if let Some((model_id, share)) = &mirror {
            non_empty("mirror", model_id)?;
            if !(*share > 0.0 && *share <= 1.0) {
                return Err(bad("mirror", format!("share {share} is not above 0 and at most 1")));
            }
        }
        self.plane.table.set_alias(vmodel_id, Alias::new(targets, mirror));
        Ok(())
    }

    fn remove_alias(&self, vmodel_id: &str) {
        self.plane.table.remove_alias(vmodel_id);
    }

    fn take_events(&self) -> Vec<Ask> {
        self.plane.hub.take().into_iter().map(Ask::from).collect()
    }

    #[pyo3(signature = (token, model_id=""))]
    fn answer_route(&self, token: u64, model_id: &str) {
        self.plane.hub.answer(token, &Answer::Route { model_id: model_id.to_owned() });
    }

    #[pyo3(signature = (token, endpoint, model_id=""))]
    fn answer_endpoint(&self, token: u64, endpoint: i64, model_id: &str) -> PyResult<()> {
        let endpoint =
            u32::try_from(endpoint).map_err(|_| bad("endpoint", format!("{endpoint} is not the number of one")))?;
        self.plane.hub.answer(token, &Answer::Endpoint { endpoint, model_id: model_id.to_owned() });
        Ok(())
    }

    #[pyo3(signature = (token, code, message, details=b"".as_slice()))]
    fn answer_status(&self, token: u64, code: i64, message: &str, details: &[u8]) -> PyResult<()> {
        self.plane.hub.answer(token, &Answer::Status(status_of(code, message, details)?));
        Ok(())
    }

    fn answer_not_here(&self, token: u64) {
        let mut status = Status::new(Code::UNAVAILABLE, "this instance has no copy of the model");
        status.control = Some(NOT_HERE);
        self.plane.hub.answer(token, &Answer::Status(status));
    }

    fn take_calls(&self, py: Python<'_>) -> Vec<Call> {
        let call = |(token, call): (u64, Incoming)| Call {
            token,
            method: call.method,
            message: PyBytes::new(py, &call.message).unbind(),
            context: call.context.into_iter().collect(),
            traceparent: call.trace.map(SpanContext::text).unwrap_or_default(),
        };
        self.plane.calls.take().into_iter().map(call).collect()
    }

    fn answer_call(&self, token: u64, message: &[u8]) {
        self.plane.calls.answer(token, Reply::Message(bytes::Bytes::copy_from_slice(message)));
    }

    #[pyo3(signature = (token, code, message, details=b"".as_slice()))]
    fn fail_call(&self, token: u64, code: i64, message: &str, details: &[u8]) -> PyResult<()> {
        self.plane.calls.answer(token, Reply::Status(status_of(code, message, details)?));
        Ok(())
    }

    fn answer_held(&self, token: u64) {
        self.plane.hub.answer(token, &Answer::Held);
    }

    #[pyo3(signature = (*, each_invocation, headers))]
    fn set_logging(&self, each_invocation: bool, headers: Vec<(String, String)>) -> PyResult<()> {
        let parse = |(header, name): (String, String)| {
            let header = HeaderName::from_bytes(header.to_ascii_lowercase().as_bytes());
            Ok((header.map_err(|error| bad("headers", error.to_string()))?, name))
        };
        let headers = headers.into_iter().map(parse).collect::<PyResult<Vec<_>>>()?;
        self.plane.change_policy(|policy| policy.log = Wanted { each_invocation, headers });
        Ok(())
    }

    fn take_log(&self) -> (Vec<LogEntry>, u64) {
        let (entries, missed) = self.plane.journal.take();
        (entries.into_iter().map(LogEntry::from).collect(), missed)
    }

    #[pyo3(signature = (*, share, follow_parents))]
    fn set_tracing(&self, share: f64, follow_parents: bool) -> PyResult<()> {
        if !(0.0..=1.0).contains(&share) {
            return Err(bad("share", format!("must be 0 to 1, not {share}")));
        }
        self.plane.change_policy(|policy| policy.sampler = Some(Sampler::new(share, follow_parents)));
        Ok(())
    }

    fn take_traces(&self) -> (Vec<TracedRequest>, u64) {
        let (records, dropped) = self.plane.traces.take();
        (records.into_iter().map(TracedRequest::from).collect(), dropped)
    }

    fn take_usage(&self) -> Vec<Usage> {
        self.plane.table.take_usage().into_iter().map(Usage::from).collect()
    }

    fn take_comparisons(&self, py: Python<'_>) -> PyResult<Vec<Comparison>> {
        let comparison = |((vmodel_id, model_id), tally)| Comparison::new(py, vmodel_id, model_id, tally);
        self.plane.shadows.take().into_iter().map(comparison).collect()
    }

    fn payload_queue(&self, capacity: i64) -> PyResult<PayloadQueue> {
        let id = self.plane.payloads.next_queue();
        Ok(PayloadQueue(Arc::new(Queue::new(id, size("capacity", capacity)?))))
    }

    #[allow(clippy::type_complexity)]
    fn set_taps(&self, taps: Vec<(Bound<'_, PayloadQueue>, Vec<String>, Vec<String>, f64)>) -> PyResult<()> {
        let mut wanted = Taps::default();
        for (queue, ids, methods, share) in taps.iter().cloned() {
            if !(0.0..=1.0).contains(&share) {
                return Err(bad("taps", format!("share {share} is not in 0 to 1")));
            }
            let methods = methods.into_iter().map(|name| method_name(name).into()).collect();
            // A float as large as the largest number of 64 bits becomes that number.
            let share = (share * u64::MAX as f64) as u64;
            wanted.add(Tap { queue: Arc::clone(&queue.get().0), methods, share }, ids);
        }
        let wanted = (!taps.is_empty()).then(|| Arc::new(wanted));
        self.plane.change_policy(|policy| policy.taps = wanted);
        Ok(())
    }

    fn take_ready_queues(&self) -> Vec<u64> {
        self.plane.payloads.take_ready()
    }

    #[pyo3(signature = (name, text, bounds, label=""))]
    fn add_histogram(&self, name: &str, text: &str, bounds: Vec<f64>, label: &str) -> PyResult<()> {
        if !bounds.is_sorted_by(|one, other| one < other) {
            return Err(bad("bounds", "must ascend"));
        }
        let is_new = Metric::ALL.iter().all(|metric| metric.name() != name)
            && self.plane.observed.add(name, text, &bounds, label);
        if is_new { Ok(()) } else { Err(bad("name", format!("there is a histogram {name:?} already"))) }
    }

    #[pyo3(signature = (name, value, *, model_id="", label="", trace_id=0))]
    fn observe(&self, name: &str, value: f64, model_id: &str, label: &str, trace_id: u128) -> PyResult<()> {
        let known = self.plane.observed.observe(name, value, (label, model_id), trace_id, epoch_ms());
        if known { Ok(()) } else { Err(bad("name", format!("there is no histogram {name:?}; add_histogram makes it"))) }
    }

    #[pyo3(signature = (*, full_method_names=false))]
    fn take_histograms(&self, py: Python<'_>, full_method_names: bool) -> Vec<HistogramSample> {
        py.detach(|| {
            let mut reading = Reading::default();
            let mut samples = Vec::new();
            for group in self.groups(full_method_names) {
                for metric in Metric::ALL {
                    reading.clear();
                    group.read(metric, &mut reading);
                    if !reading.buckets.is_empty() {
                        samples.push(HistogramSample::of_requests(metric, group.labels(), &reading));
                    }
                }
            }
            self.plane.observed.read(self.idle_since(), |family, series| {
                for one in series {
                    reading.clear();
                    reading.add(&one.histogram);
                    samples.push(HistogramSample::of_observed(&family.name, &one, &reading));
                }
            });
            samples
        })
    }

    #[pyo3(signature = (*, prefix, before, after, openmetrics=false, gzip=false, full_method_names=false, names=None))]
    #[allow(clippy::too_many_arguments)]
    fn scrape(
        &self,
        py: Python<'_>,
        prefix: &str,
        before: &[u8],
        after: &[u8],
        openmetrics: bool,
        gzip: bool,
        full_method_names: bool,
        names: Option<HashSet<String>>,
    ) -> Scrape {
        let names = names.unwrap_or_default();
        let per_model = self.plane.settings.per_model_metrics;
        let wanted = exposition::Wanted { prefix: prefix.to_owned(), openmetrics, per_model, names };
        let scrape = py.detach(|| {
            let observed = (&self.plane.observed, self.idle_since());
            exposition::Scrape::new(&wanted, self.groups(full_method_names), observed, gzip, before, after)
        });
        Scrape(Mutex::new(scrape))
    }

    fn totals(&self) -> Totals {
        let plane = &self.plane;
        Totals {
            connections: plane.total(|counters| counters.connections.load(Ordering::Relaxed) as u64),
            accepted: plane.total(|counters| counters.accepted.load(Ordering::Relaxed)),
            runtime_connections: plane.upstream_connections(EndpointKind::Runtime) as u64,
            peer_connections: plane.upstream_connections(EndpointKind::Peer) as u64,
            streams: plane.total(|counters| counters.streams.load(Ordering::Relaxed) as u64),
            waiting: plane.hub.waiting() as u64,
            queued: plane.total(|counters| counters.queued.load(Ordering::Relaxed) as u64),
            retained_bytes: plane.budget.used.load(Ordering::Relaxed) as u64,
            requests: plane.total(|counters| counters.requests.load(Ordering::Relaxed)),
            forwarded: plane.total(|counters| counters.forwarded.load(Ordering::Relaxed)),
            replayed: plane.total(|counters| counters.replayed.load(Ordering::Relaxed)),
            routes: plane.table.routes() as u64,
            shadows: plane.shadows.running() as u64,
            payload_bytes: plane.payloads.held() as u64,
            shadow_bytes: plane.shadows.budget.used.load(Ordering::Relaxed) as u64,
            model_series: plane.series.series() as u64,
            beyond_series: plane.series.beyond.load(Ordering::Relaxed) + plane.observed.beyond.load(Ordering::Relaxed),
        }
    }

    fn start_drain(&self) {
        self.advance(Drain::Clients);
    }

    fn close(&self, py: Python<'_>, grace_ms: i64) -> PyResult<bool> {
        let grace = Duration::from_millis(not_negative("grace_ms", grace_ms)?);
        Ok(py.detach(|| self.stop(grace)))
    }
}

fn non_empty<'a>(argument: &str, id: &'a str) -> PyResult<&'a str> {
    if id.is_empty() { Err(bad(argument, "an id must not be empty")) } else { Ok(id) }
}

impl DataPlane {
    fn endpoints(&self, ids: &[u32]) -> PyResult<Vec<Arc<crate::endpoint::Endpoint>>> {
        self.plane.endpoints_of(ids).map_err(|id| bad("endpoints", format!("there is no endpoint {id}")))
    }

    /// When series of models must have been used since, so as to be kept.
    fn idle_since(&self) -> u64 {
        let idle_ms = u64::try_from(self.plane.settings.model_series_idle.as_millis()).unwrap_or(u64::MAX);
        epoch_ms().saturating_sub(idle_ms)
    }

    fn groups(&self, full_method_names: bool) -> Vec<Group> {
        let shards: Vec<&Metrics> = self.plane.shards.iter().map(|shard| &shard.metrics).collect();
        collect(&shards, full_method_names, self.idle_since())
    }

    fn advance(&self, to: Drain) {
        self.plane.drain.send_if_modified(|drain| {
            let later = to > *drain;
            if later {
                *drain = to;
            }
            later
        });
    }

    /// Ends all connections; true if all requests ended by themselves.
    fn stop(&self, grace: Duration) -> bool {
        self.advance(Drain::Everything);
        let streams = || self.plane.total(|counters| counters.streams.load(Ordering::Relaxed) as u64);
        let connections = || self.plane.total(|counters| counters.connections.load(Ordering::Relaxed) as u64);
        let until = Instant::now() + grace;
        let mut busy = Instant::now();
        while Instant::now() < until {
            if streams() > 0 {
                busy = Instant::now();
            } else if connections() == 0 || busy.elapsed() > FAREWELL {
                break;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        let all_ended = streams() == 0;
        let threads = std::mem::take(&mut *lock(&self.threads));
        for inbox in &threads.inboxes {
            // A thread that has ended already needs no telling.
            let _ = inbox.send(Command::Stop);
        }
        drop(threads.upkeep);
        for handle in threads.handles {
            // A panic there has been reported by the thread itself.
            let _ = handle.join();
        }
        all_ended
    }
}

impl Drop for DataPlane {
    fn drop(&mut self) {
        self.stop(Duration::ZERO);
    }
}
