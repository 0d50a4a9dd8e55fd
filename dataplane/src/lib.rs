//! The data plane of mesh: listeners, routes and connections inside the Python process.
//!
//! Python decides and this moves bytes. The only modules that know Python are this one and those named after their `face`; no thread of the
//! data plane ever takes the GIL.

mod address;
mod alias;
mod answer;
mod body;
mod caller;
mod caller_face;
mod calls;
mod client;
mod clock;
mod compare;
mod compression;
mod connection;
mod endpoint;
mod exchange;
mod exposition;
mod face;
mod fanout;
mod fieldpath;
mod frames;
mod grpc;
mod heard;
mod histogram;
mod hub;
mod inject;
mod journal;
mod journey;
mod lock;
mod memory;
mod metadata;
mod metrics;
mod model;
mod observed;
mod packed;
mod payload;
mod payload_face;
mod plane;
mod policy;
mod poll;
mod settings;
mod shadow;
mod shard;
mod stream;
mod table;
mod talk;
mod tap;
mod timeout;
mod trace;
mod trace_context;
mod trace_values;
mod turns;
mod unary;
mod values;
mod wake;

use pyo3::prelude::*;

#[pymodule]
fn _dataplane(module: &Bound<'_, PyModule>) -> PyResult<()> {
    caller_face::register(module)?;
    face::register(module)?;
    payload_face::register(module)
}
