//! What Python gets of traces: plain values with attributes. `_dataplane.pyi` says what they mean.

use std::time::{Duration, UNIX_EPOCH};

use pyo3::prelude::*;

use crate::endpoint::EndpointKind;
use crate::trace::{Record, Step, StepKind};

#[pyclass(frozen, get_all, module = "mesh.dataplane")]
pub struct TracedRequest {
    pub trace_id: u128,
    pub span_id: u64,
    pub parent_id: u64,
    pub state: String,
    pub began_ns: u64,
    pub ended_ns: u64,
    pub method: String,
    pub model_id: String,
    pub vmodel_id: String,
    pub from_peer: bool,
    pub code: &'static str,
    pub message: String,
    pub steps: Vec<TracedStep>,
}

#[pyclass(frozen, get_all, module = "mesh.dataplane")]
#[derive(Clone)]
pub struct TracedStep {
    pub kind: &'static str,
    pub span_id: u64,
    pub began_ns: u64,
    pub ended_ns: u64,
    pub reason: &'static str,
    pub target: String,
    pub address: String,
    pub code: &'static str,
    pub message: String,
    pub joined: Option<(u128, u64)>,
}

impl From<Record> for TracedRequest {
    fn from(record: Record) -> TracedRequest {
        let began_ns = nanoseconds(record.began.duration_since(UNIX_EPOCH).unwrap_or_default());
        let step =
            |(began, ended, step)| TracedStep::new(began_ns + nanoseconds(began), began_ns + nanoseconds(ended), step);
        TracedRequest {
            trace_id: record.span.trace_id,
            span_id: record.span.span_id,
            parent_id: record.parent.map_or(0, |parent| parent.span_id),
            state: record.state,
            began_ns,
            ended_ns: began_ns + nanoseconds(record.took),
            method: record.method,
            model_id: record.model_id,
            vmodel_id: record.vmodel_id,
            from_peer: record.from_peer,
            code: record.code.name(),
            message: record.message,
            steps: record.steps.into_iter().map(step).collect(),
        }
    }
}

impl TracedStep {
    fn new(began_ns: u64, ended_ns: u64, step: Step) -> TracedStep {
        let (kind, reason, endpoint) = match step.kind {
            StepKind::Queue => ("queue", "", None),
            StepKind::Ask(reason) => ("ask", reason.name(), None),
            StepKind::Send(endpoint) if endpoint.kind == EndpointKind::Runtime => ("runtime", "", Some(endpoint)),
            StepKind::Send(endpoint) => ("forward", "", Some(endpoint)),
        };
        let (code, message) = step.end.map_or(("", String::new()), |(code, message)| (code.name(), message));
        TracedStep {
            kind,
            span_id: step.span_id,
            began_ns,
            ended_ns,
            reason,
            target: endpoint.as_ref().map(|endpoint| endpoint.name.clone()).unwrap_or_default(),
            address: endpoint.as_ref().map(|endpoint| endpoint.address.to_string()).unwrap_or_default(),
            code,
            message,
            joined: step.joined.map(|span| (span.trace_id, span.span_id)),
        }
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
