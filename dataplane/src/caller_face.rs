//! What Python sees of the calls that it makes. `_dataplane.pyi` is the contract.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, HeaderName, HeaderValue};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::address::Address;
use crate::caller::Said;
use crate::endpoint::Endpoint;
use crate::unary::Order;

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Caller>()?;
    module.add_class::<Server>()?;
    module.add_class::<Talk>()
}

fn bad(argument: &str, why: impl std::fmt::Display) -> PyErr {
    PyValueError::new_err(format!("{argument}: {why}"))
}

#[pyclass(frozen, module = "mesh.dataplane")]
pub struct Caller {
    caller: Arc<crate::caller::Caller>,
}

#[pymethods]
impl Caller {
    #[new]
    #[pyo3(signature = (*, connect_timeout_ms=2_000))]
    fn new(connect_timeout_ms: u64) -> PyResult<Caller> {
        if connect_timeout_ms == 0 {
            return Err(bad("connect_timeout_ms", "must be positive, not 0"));
        }
        Ok(Caller { caller: Arc::new(crate::caller::Caller::new(Duration::from_millis(connect_timeout_ms))?) })
    }

    #[getter]
    fn event_fd(&self) -> i32 {
        self.caller.wake().fd()
    }

    #[pyo3(signature = (address, *, authority="", ping_interval_ms=0))]
    fn server(&self, address: &str, authority: &str, ping_interval_ms: u64) -> PyResult<Server> {
        let address = Address::parse(address).map_err(|why| bad("address", why))?;
        let authority = match authority {
            "" => None,
            name => Some(Authority::try_from(name).map_err(|why| bad("authority", format!("{name:?}: {why}")))?),
        };
        let ping_interval = (ping_interval_ms > 0).then(|| Duration::from_millis(ping_interval_ms));
        let server = self.caller.server(address, authority, ping_interval);
        Ok(Server { caller: Arc::clone(&self.caller), server })
    }

    fn flush(&self) {
        self.caller.flush();
    }

    fn cancel(&self, token: u64) {
        self.caller.cancel(token);
    }

    fn take<'py>(&self, py: Python<'py>) -> Vec<(u64, u8, Bound<'py, PyAny>)> {
        let answer = |answer: crate::caller::Answer| match answer.said {
            Said::Message(message) => (answer.token, 0, PyBytes::new(py, &message).into_any()),
            Said::End(status) => (answer.token, status.code.number(), PyString::new(py, &status.message).into_any()),
        };
        self.caller.take().into_iter().map(answer).collect()
    }

    fn close(&self, py: Python<'_>) {
        py.detach(|| self.caller.close());
    }
}

#[pyclass(frozen, module = "mesh.dataplane")]
pub struct Server {
    caller: Arc<crate::caller::Caller>,
    server: Arc<Endpoint>,
}

#[pymethods]
impl Server {
    #[pyo3(signature = (method, message, timeout_s=None, metadata=Vec::new()))]
    fn call(
        &self,
        method: &str,
        message: &[u8],
        timeout_s: Option<f64>,
        metadata: Vec<(String, String)>,
    ) -> PyResult<u64> {
        // Longer than a clock can count is no deadline.
        let timeout = timeout_s.map(|seconds| Duration::try_from_secs_f64(seconds.max(0.0)));
        let deadline = timeout.and_then(Result::ok).and_then(|timeout| Instant::now().checked_add(timeout));
        Ok(self.caller.call(self.order(method, metadata, Bytes::copy_from_slice(message), deadline)?))
    }

    #[pyo3(signature = (method, metadata=Vec::new()))]
    fn open(&self, method: &str, metadata: Vec<(String, String)>) -> PyResult<Talk> {
        let (token, outgoing) = self.caller.open(self.order(method, metadata, Bytes::new(), None)?);
        Ok(Talk { token, outgoing })
    }

    fn close(&self) {
        self.server.remove();
    }
}

impl Server {
    fn order(
        &self,
        method: &str,
        metadata: Vec<(String, String)>,
        message: Bytes,
        deadline: Option<Instant>,
    ) -> PyResult<Order> {
        let path = PathAndQuery::try_from(method).map_err(|why| bad("method", format!("{method:?}: {why}")))?;
        let mut headers = HeaderMap::with_capacity(metadata.len() + 3);
        for (name, value) in metadata {
            let value = HeaderValue::from_str(&value).map_err(|why| bad("metadata", format!("{name}: {why}")))?;
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(|why| bad("metadata", why))?;
            headers.append(name, value);
        }
        Ok(Order { server: Arc::clone(&self.server), path, metadata: headers, message, deadline })
    }
}

#[pyclass(frozen, module = "mesh.dataplane")]
pub struct Talk {
    #[pyo3(get)]
    token: u64,
    outgoing: mpsc::UnboundedSender<Bytes>,
}

#[pymethods]
impl Talk {
    fn send(&self, message: &[u8]) -> bool {
        self.outgoing.send(Bytes::copy_from_slice(message)).is_ok()
    }
}
