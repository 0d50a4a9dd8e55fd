//! What Python gets: plain values with attributes. `_dataplane.pyi` says what they mean.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::histogram::Reading;
use crate::hub::Question;
use crate::journal::Entry;
use crate::metrics::{Labels, Metric};
use crate::observed::Series;
use crate::trace_context::SpanContext;
use crate::{model, shadow};

#[pyclass(frozen, get_all, module = "mesh.dataplane")]
pub struct Ask {
    pub token: u64,
    pub reason: &'static str,
    pub model_id: String,
    pub is_vmodel: bool,
    pub resolved_id: String,
    pub from_peer: bool,
    pub method: String,
    pub endpoint: i64,
    pub code: i32,
    pub message: String,
    pub attempt: u32,
    pub tried: Vec<u32>,
    pub balanced: bool,
    pub sent_ms_ago: i64,
    pub deadline_ms: i64,
    pub context: HashMap<String, String>,
    pub traceparent: String,
}

#[pymethods]
impl Ask {
    fn __repr__(&self) -> String {
        format!(
            "Ask(token={}, reason={:?}, model_id={:?}, attempt={}, tried={:?})",
            self.token, self.reason, self.model_id, self.attempt, self.tried
        )
    }
}

#[pyclass(frozen, get_all, module = "mesh.dataplane")]
pub struct Call {
    pub token: u64,
    pub method: String,
    pub message: Py<PyBytes>,
    pub context: HashMap<String, String>,
    pub traceparent: String,
}

#[pyclass(frozen, get_all, module = "mesh.dataplane")]
pub struct LogEntry {
    pub kind: &'static str,
    pub method: String,
    pub model_id: String,
    pub vmodel_id: String,
    pub code: &'static str,
    pub message: String,
    pub milliseconds: f64,
    pub context: HashMap<String, String>,
}

#[pyclass(frozen, get_all, module = "mesh.dataplane")]
pub struct Usage {
    pub model_id: String,
    pub last_used_ms: u64,
    pub requests: u32,
    pub in_flight: u32,
    pub most_in_flight: u32,
    pub queued: u32,
    pub most_queued: u32,
    pub answers: u32,
    pub service_ms: f64,
}

#[pyclass(frozen, get_all, module = "mesh.dataplane")]
pub struct Comparison {
    pub vmodel_id: String,
    pub model_id: String,
    pub compared: u64,
    pub equal: u64,
    pub different: u64,
    pub shadow_failed: u64,
    pub primary_failed: u64,
    pub dropped: u64,
    pub primary_ms: f64,
    pub shadow_ms: f64,
    pub differences: Vec<Py<Difference>>,
}

#[pyclass(frozen, get_all, module = "mesh.dataplane")]
pub struct Difference {
    pub method: String,
    pub model_id: String,
    pub primary_bytes: usize,
    pub primary_ms: f64,
    pub shadow_code: u8,
    pub shadow_message: String,
    pub shadow_bytes: usize,
    pub shadow_ms: f64,
}

#[pyclass(frozen, get_all, module = "mesh.dataplane")]
pub struct HistogramSample {
    pub name: String,
    pub method: String,
    pub code: &'static str,
    pub model_id: String,
    pub vmodel_id: String,
    pub label: String,
    pub buckets: Vec<u64>,
    pub sum: f64,
}

#[pyclass(frozen, get_all, module = "mesh.dataplane")]
pub struct Totals {
    pub connections: u64,
    pub accepted: u64,
    pub runtime_connections: u64,
    pub peer_connections: u64,
    pub streams: u64,
    pub waiting: u64,
    pub queued: u64,
    pub retained_bytes: u64,
    pub requests: u64,
    pub forwarded: u64,
    pub replayed: u64,
    pub routes: u64,
    pub shadows: u64,
    pub shadow_bytes: u64,
    pub model_series: u64,
    pub beyond_series: u64,
    pub payload_bytes: u64,
}

fn milliseconds_since(moment: Instant) -> i64 {
    i64::try_from(moment.elapsed().as_millis()).unwrap_or(i64::MAX)
}

impl From<(u64, Question)> for Ask {
    fn from((token, question): (u64, Question)) -> Ask {
        Ask {
            token,
            reason: question.reason.name(),
            model_id: question.model_id,
            is_vmodel: question.is_vmodel,
            resolved_id: question.resolved_id,
            from_peer: question.from_peer,
            method: question.method,
            endpoint: question.endpoint,
            code: question.code,
            message: question.message,
            attempt: question.attempt,
            tried: question.tried,
            balanced: question.balanced,
            sent_ms_ago: question.sent.map_or(-1, milliseconds_since),
            deadline_ms: question.deadline_ms,
            context: question.context.into_iter().collect(),
            traceparent: question.trace.map(SpanContext::text).unwrap_or_default(),
        }
    }
}

impl From<Entry> for LogEntry {
    fn from(entry: Entry) -> LogEntry {
        LogEntry {
            kind: entry.kind.name(),
            method: entry.method,
            model_id: entry.model_id,
            vmodel_id: entry.vmodel_id,
            code: entry.code.name(),
            message: entry.message,
            milliseconds: entry.milliseconds,
            context: entry.context.into_iter().collect(),
        }
    }
}

impl From<model::Usage> for Usage {
    fn from(usage: model::Usage) -> Usage {
        Usage {
            model_id: usage.model_id,
            last_used_ms: usage.last_used_ms,
            requests: usage.requests,
            in_flight: usage.in_flight,
            most_in_flight: usage.most_in_flight,
            queued: usage.queued,
            most_queued: usage.most_queued,
            answers: usage.answers,
            service_ms: milliseconds(usage.service_time),
        }
    }
}

impl HistogramSample {
    /// Of a family that the data plane counts.
    pub fn of_requests(metric: Metric, labels: Labels<'_>, reading: &Reading) -> HistogramSample {
        HistogramSample {
            name: metric.name().to_owned(),
            method: labels.method.to_owned(),
            code: labels.code,
            model_id: labels.model_id.to_owned(),
            vmodel_id: labels.vmodel_id.to_owned(),
            label: String::new(),
            buckets: reading.buckets.clone(),
            sum: reading.sum,
        }
    }

    /// Of a family that Python observes.
    pub fn of_observed(name: &str, series: &Series, reading: &Reading) -> HistogramSample {
        HistogramSample {
            name: name.to_owned(),
            method: String::new(),
            code: "",
            model_id: series.model_id.clone(),
            vmodel_id: String::new(),
            label: series.label.clone(),
            buckets: reading.buckets.clone(),
            sum: reading.sum,
        }
    }
}

impl Comparison {
    pub fn new(py: Python<'_>, vmodel_id: Box<str>, model_id: Box<str>, tally: shadow::Tally) -> PyResult<Comparison> {
        let differences = tally.differences.into_iter().map(|one| Py::new(py, Difference::from(one)));
        Ok(Comparison {
            vmodel_id: vmodel_id.into(),
            model_id: model_id.into(),
            compared: tally.equal + tally.different,
            equal: tally.equal,
            different: tally.different,
            shadow_failed: tally.shadow_failed,
            primary_failed: tally.primary_failed,
            dropped: tally.dropped,
            primary_ms: milliseconds(tally.time),
            shadow_ms: milliseconds(tally.shadow_time),
            differences: differences.collect::<PyResult<_>>()?,
        })
    }
}

impl From<shadow::Difference> for Difference {
    fn from(one: shadow::Difference) -> Difference {
        Difference {
            method: one.method,
            model_id: one.model_id,
            primary_bytes: one.bytes,
            primary_ms: milliseconds(one.time),
            shadow_code: one.shadow_code.number(),
            shadow_message: one.shadow_status,
            shadow_bytes: one.shadow_bytes,
            shadow_ms: milliseconds(one.shadow_time),
        }
    }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
