//! What Python has set for all requests: methods, places of ids, status rules, the control server.

use std::sync::Arc;

// Looked up for each request; only Python adds to them, so their hash need not withstand what clients make up.
use hashbrown::{HashMap, HashSet};

use crate::endpoint::Endpoint;
use crate::grpc::Code;
use crate::hub::Reason;
use crate::journal;
use crate::tap::Taps;
use crate::trace_context::Sampler;

/// The runtime's own service: never for clients.
pub const RUNTIME_SERVICE: &str = "/mmesh.ModelRuntime/";

#[derive(Clone, Default)]
pub struct Policy {
    pub control: Option<Control>,
    /// None allows every method.
    pub rpcs: Option<HashMap<String, Rpc>>,
    pub allow_other_rpcs: bool,
    pub runtime_methods: HashMap<String, Vec<u32>>,
    pub allow_any_runtime_method: bool,
    pub status_rules: Vec<StatusRule>,
    pub log: journal::Wanted,
    /// None traces nothing, and leaves the contexts of requests as they are.
    pub sampler: Option<Sampler>,
    /// None where nobody processes payloads.
    pub taps: Option<Arc<Taps>>,
}

#[derive(Clone)]
pub struct Control {
    pub endpoint: Arc<Endpoint>,
    pub prefixes: Vec<String>,
    pub peer_prefixes: Vec<String>,
    /// Paths of the methods among them that Python answers itself.
    pub calls: HashSet<String>,
}

/// A method that clients may call.
#[derive(Clone)]
pub struct Rpc {
    /// Where the id is in a message; empty: in the headers.
    pub path: Vec<u32>,
    pub is_vmodel: bool,
}

/// An answer of the runtime that asks for a decision.
#[derive(Clone)]
pub struct StatusRule {
    pub code: Code,
    pub prefix: String,
    pub suffix: String,
    pub reason: Reason,
}

impl StatusRule {
    pub fn matches(&self, code: Code, message: &str) -> bool {
        self.code == code && message.starts_with(&self.prefix) && message.ends_with(&self.suffix)
    }
}

/// Where a path leads.
pub enum Destination<'a> {
    Control(&'a Arc<Endpoint>),
    /// Python itself.
    Call,
    Model,
    Forbidden,
}

impl Policy {
    pub fn destination(&self, path: &str, from_peers: bool) -> Destination<'_> {
        if let Some(control) = &self.control {
            let for_clients = control.prefixes.iter().any(|prefix| path.starts_with(prefix));
            if for_clients || control.peer_prefixes.iter().any(|prefix| path.starts_with(prefix)) {
                return if !for_clients && !from_peers {
                    Destination::Forbidden
                } else if control.calls.contains(path) {
                    Destination::Call
                } else {
                    Destination::Control(&control.endpoint)
                };
            }
        }
        if path.starts_with(RUNTIME_SERVICE) { Destination::Forbidden } else { Destination::Model }
    }

    /// Whether clients may call the method.
    pub fn allows(&self, method: &str) -> bool {
        self.allow_other_rpcs || self.rpcs.as_ref().is_none_or(|rpcs| rpcs.contains_key(method))
    }

    pub fn rpc(&self, method: &str) -> Option<&Rpc> {
        self.rpcs.as_ref().and_then(|rpcs| rpcs.get(method)).filter(|rpc| !rpc.path.is_empty())
    }

    /// Where to write the id for the runtime (empty: nowhere), or None if it does not serve the method.
    pub fn runtime_path(&self, method: &str) -> Option<&[u32]> {
        match self.runtime_methods.get(method) {
            Some(path) => Some(path),
            None if self.runtime_methods.is_empty() || self.allow_any_runtime_method => Some(&[]),
            None => None,
        }
    }
}
