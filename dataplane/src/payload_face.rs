//! What Python sees of payloads. `_dataplane.pyi` is the contract.

use std::collections::HashMap;
use std::ffi::c_int;
use std::ops::Range;
use std::ptr;
use std::sync::{Arc, Mutex, OnceLock};

use base64::Engine;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use pyo3::exceptions::{PyBufferError, PyIndexError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyMemoryView, PySlice, PyString, PyTuple};

use crate::heard::{Heard, Message};
use crate::lock::lock;
use crate::payload::{Loss, Part, Queue, Record};

/// Binary metadata is told with and without padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PayloadQueue>()?;
    module.add_class::<PayloadBatch>()?;
    module.add_class::<Payload>()?;
    module.add_class::<Shared>()
}

#[pyclass(frozen, module = "mesh.dataplane")]
pub struct PayloadQueue(pub Arc<Queue>);

#[pymethods]
impl PayloadQueue {
    #[getter]
    fn id(&self) -> u64 {
        self.0.id()
    }

    #[getter]
    fn waiting(&self) -> usize {
        self.0.waiting()
    }

    fn arm(&self, least: usize) -> PyResult<bool> {
        if least == 0 {
            return Err(PyValueError::new_err("least: must be positive, not 0"));
        }
        Ok(self.0.arm(least))
    }

    fn take(&self, most: usize) -> PayloadBatch {
        PayloadBatch::new(self.0.take(most))
    }

    fn close(&self) {
        self.0.close();
    }

    fn losses(&self) -> HashMap<&'static str, u64> {
        let lost = self.0.lost();
        Loss::ALL.iter().map(|loss| (loss.name(), lost[*loss as usize])).collect()
    }
}

#[pyclass(frozen, sequence, module = "mesh.dataplane")]
pub struct PayloadBatch {
    parts: Vec<Part>,
    length: usize,
    /// Where each part begins, once a payload is looked at.
    starts: OnceLock<Vec<usize>>,
    /// The call that was looked at last: payloads of one call come together.
    last: Mutex<Option<Looked>>,
}

struct Looked {
    part: usize,
    /// Which of that part's place the call has.
    payloads: Range<usize>,
    record: Arc<Record>,
}

impl PayloadBatch {
    fn new(parts: Vec<Part>) -> PayloadBatch {
        let length = parts.iter().map(|part| part.payloads.len()).sum();
        PayloadBatch { parts, length, starts: OnceLock::new(), last: Mutex::default() }
    }

    /// Which part has the payload at an index below the length, and which of that part's place it is.
    fn at(&self, index: usize) -> Option<(usize, usize)> {
        let starts = self.starts.get_or_init(|| {
            let mut next = 0;
            let start = |part: &Part| {
                let start = next;
                next += part.payloads.len();
                start
            };
            self.parts.iter().map(start).collect()
        });
        let part = starts.partition_point(|start| *start <= index).checked_sub(1)?;
        Some((part, self.parts.get(part)?.payloads.start + index - starts[part]))
    }

    /// The payload at an index below the length.
    fn payload(&self, index: usize) -> Option<Payload> {
        let (part, at) = self.at(index)?;
        let mut last = lock(&self.last);
        if !last.as_ref().is_some_and(|last| last.part == part && last.payloads.contains(&at)) {
            let (record, payloads) = self.parts.get(part)?.place.record(at)?;
            *last = Some(Looked { part, payloads, record });
        }
        let Looked { payloads, record, .. } = last.as_ref()?;
        Some(Payload { record: Arc::clone(record), at: at - payloads.start })
    }
}

#[pymethods]
impl PayloadBatch {
    fn __len__(&self) -> usize {
        self.length
    }

    fn __getitem__(&self, py: Python<'_>, index: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        if let Ok(slice) = index.cast::<PySlice>() {
            let slice = slice.indices(isize::try_from(self.length)?)?;
            let steps = isize::try_from(slice.slicelength)?;
            let chosen = (0..steps).filter_map(|step| usize::try_from(slice.start + step * slice.step).ok());
            let part =
                |(part, at): (usize, usize)| Part { place: self.parts[part].place.clone(), payloads: at..at + 1 };
            let parts = chosen.filter_map(|at| self.at(at).map(part)).collect();
            return Ok(Py::new(py, PayloadBatch::new(parts))?.into_any());
        }
        let index: isize = index.extract()?;
        let at = if index < 0 { index + isize::try_from(self.length)? } else { index };
        let found = usize::try_from(at).ok().filter(|at| *at < self.length).and_then(|at| self.payload(at));
        let payload = found.ok_or_else(|| PyIndexError::new_err("there are not so many payloads"))?;
        Ok(Py::new(py, payload)?.into_any())
    }

    fn __repr__(&self) -> String {
        format!("<batch of {} payloads>", self.length)
    }
}

#[pyclass(frozen, module = "mesh.dataplane")]
pub struct Payload {
    record: Arc<Record>,
    /// Among all of the call's, requests first.
    at: usize,
}

impl Payload {
    fn side(&self) -> (&Heard, usize) {
        match self.at.checked_sub(self.record.requests()) {
            None => (&self.record.request, self.at),
            Some(at) => (&self.record.response, at),
        }
    }

    fn is_request(&self) -> bool {
        self.at < self.record.requests()
    }

    fn has_no_message(&self) -> bool {
        !self.is_request() && self.record.response.messages() == 0
    }
}

#[pymethods]
impl Payload {
    #[getter]
    fn id(&self) -> String {
        format!("{:016x}-{}", self.record.process, self.record.number)
    }

    #[getter]
    fn kind<'py>(&self, py: Python<'py>) -> &Bound<'py, PyString> {
        if self.is_request() { pyo3::intern!(py, "request") } else { pyo3::intern!(py, "response") }
    }

    #[getter]
    fn model_id(&self) -> &str {
        self.record.names.model_id()
    }

    #[getter]
    fn vmodel_id(&self) -> &str {
        self.record.names.vmodel_id()
    }

    #[getter]
    fn method(&self) -> &str {
        self.record.names.method()
    }

    #[getter]
    fn status(&self) -> Option<&'static str> {
        (!self.is_request()).then(|| self.record.code.name())
    }

    #[getter]
    fn metadata<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        let pair = |(name, value): (&str, &[u8])| {
            let value = match name.strip_suffix("-bin").and_then(|_| BASE64.decode(value).ok()) {
                Some(bytes) => PyBytes::new(py, &bytes).into_any(),
                None => PyString::new(py, &String::from_utf8_lossy(value)).into_any(),
            };
            (PyString::new(py, name).into_any(), value).into_pyobject(py)
        };
        PyTuple::new(py, self.side().0.metadata().map(pair).collect::<PyResult<Vec<_>>>()?)
    }

    #[getter]
    fn data<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        if self.has_no_message() {
            return Ok(None);
        }
        let (heard, at) = self.side();
        let message = if heard.is_compressed(at) { py.detach(|| heard.message(at)) } else { heard.message(at) };
        let data = match message.map_err(|status| PyValueError::new_err(status.message))? {
            Message::Shared(bytes) => {
                let shared = Py::new(py, Shared { bytes, _record: Arc::clone(&self.record) })?;
                PyMemoryView::from(shared.bind(py).as_any())?.into_any()
            }
            Message::Decompressed(bytes) => PyBytes::new(py, &bytes).into_any(),
            Message::Pieces(pieces, size) => {
                let fill = |mut place: &mut [u8]| {
                    for piece in pieces {
                        let (to, rest) = place.split_at_mut(piece.len());
                        to.copy_from_slice(piece);
                        place = rest;
                    }
                    Ok(())
                };
                PyBytes::new_with(py, size, fill)?.into_any()
            }
        };
        Ok(Some(data))
    }

    #[getter]
    fn size(&self, py: Python<'_>) -> PyResult<usize> {
        let (heard, at) = self.side();
        if heard.is_compressed(at) { self.data(py)?.map_or(Ok(0), |data| data.len()) } else { Ok(heard.size(at)) }
    }

    #[getter]
    fn time(&self) -> f64 {
        if self.is_request() { self.record.arrived } else { self.record.ended }
    }

    #[getter]
    fn sequence(&self) -> usize {
        self.side().1
    }

    fn __repr__(&self) -> String {
        let kind = if self.is_request() { "request" } else { "response" };
        format!("<{kind} of call {} of {:?}, model {:?}>", self.id(), self.method(), self.model_id())
    }
}

/// A message's bytes, for views of them.
#[pyclass(frozen, module = "mesh.dataplane")]
struct Shared {
    bytes: Bytes,
    /// Counts them.
    _record: Arc<Record>,
}

#[pymethods]
impl Shared {
    /// # Safety
    /// Python calls it with a view of its own.
    unsafe fn __getbuffer__(slf: Bound<'_, Self>, view: *mut ffi::Py_buffer, flags: c_int) -> PyResult<()> {
        if view.is_null() {
            return Err(PyBufferError::new_err("there is no view to fill"));
        }
        let bytes = &slf.get().bytes;
        let (data, length) = (bytes.as_ptr().cast_mut().cast(), ffi::Py_ssize_t::try_from(bytes.len())?);
        // SAFETY: the view refers to `slf`, which keeps the bytes where they are, and is for reading only.
        let failed = unsafe { ffi::PyBuffer_FillInfo(view, slf.as_ptr(), data, length, 1, flags) } != 0;
        if failed {
            // SAFETY: as above.
            unsafe { (*view).obj = ptr::null_mut() };
            return Err(PyErr::fetch(slf.py()));
        }
        Ok(())
    }
}
