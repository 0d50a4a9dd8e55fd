//! What all parts of one data plane share.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::sync::watch;

use crate::address::Address;
use crate::body::Budget;
use crate::calls::Calls;
use crate::endpoint::{Endpoint, EndpointKind, Manner};
use crate::hub::Hub;
use crate::journal::Journal;
use crate::lock::lock;
use crate::metrics::{Bound, Metrics};
use crate::observed::Observed;
use crate::payload::Payloads;
use crate::policy::Policy;
use crate::settings::Settings;
use crate::shadow::Shadows;
use crate::table::Table;
use crate::trace::Traces;

pub struct Plane {
    pub settings: Settings,
    pub table: Table,
    pub hub: Hub,
    pub calls: Calls,
    pub journal: Journal,
    pub budget: Budget,
    pub shadows: Shadows,
    pub traces: Traces,
    pub payloads: Arc<Payloads>,
    pub shards: Vec<ShardState>,
    /// Of the shards' series.
    pub series: Arc<Bound>,
    pub observed: Observed,
    policy: Mutex<Arc<Policy>>,
    endpoints: Mutex<HashMap<u32, Arc<Endpoint>>>,
    next_endpoint: AtomicU32,
    pub drain: watch::Sender<Drain>,
}

/// What is being ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Drain {
    Nothing,
    Clients,
    Everything,
}

/// The part of the state that one shard's thread writes.
pub struct ShardState {
    pub metrics: Metrics,
    pub counters: Counters,
}

#[derive(Default)]
pub struct Counters {
    pub connections: AtomicUsize,
    /// Connections that the shard was given but has not looked at.
    pub assigned: AtomicUsize,
    pub accepted: AtomicU64,
    pub streams: AtomicUsize,
    pub queued: AtomicI64,
    pub requests: AtomicU64,
    pub forwarded: AtomicU64,
    pub replayed: AtomicU64,
}

impl Plane {
    pub fn new(settings: Settings) -> std::io::Result<Plane> {
        let (per_model, max_series) = (settings.per_model_metrics, settings.max_model_series);
        let series = Arc::new(Bound::new(max_series));
        let metrics = Metrics::shards(settings.shards, per_model, &series);
        Ok(Plane {
            table: Table::new(),
            hub: Hub::new()?,
            calls: Calls::default(),
            journal: Journal::default(),
            shadows: Shadows::new(),
            traces: Traces::default(),
            payloads: Arc::new(Payloads::new(settings.max_payload_bytes, settings.max_message_bytes)),
            budget: Budget { used: AtomicUsize::new(0), most: settings.max_retained_bytes },
            shards: metrics.map(|metrics| ShardState { metrics, counters: Counters::default() }).collect(),
            series,
            observed: Observed::new(per_model, max_series),
            policy: Mutex::default(),
            endpoints: Mutex::default(),
            next_endpoint: AtomicU32::new(0),
            drain: watch::Sender::new(Drain::Nothing),
            settings,
        })
    }

    pub fn policy(&self) -> Arc<Policy> {
        Arc::clone(&lock(&self.policy))
    }

    pub fn change_policy(&self, change: impl FnOnce(&mut Policy)) {
        let mut policy = lock(&self.policy);
        let mut changed = Policy::clone(&policy);
        change(&mut changed);
        let old = std::mem::replace(&mut *policy, Arc::new(changed));
        drop(policy);
        drop(old);
    }

    pub fn add_endpoint(&self, kind: EndpointKind, name: &str, address: Address) -> Arc<Endpoint> {
        let id = self.next_endpoint.fetch_add(1, Ordering::Relaxed);
        let endpoint = Endpoint::new(id, kind, name, address, Manner::of(kind, &self.settings));
        if kind != EndpointKind::Control {
            lock(&self.endpoints).insert(id, Arc::clone(&endpoint));
        }
        endpoint
    }

    pub fn endpoint(&self, id: u32) -> Option<Arc<Endpoint>> {
        lock(&self.endpoints).get(&id).cloned()
    }

    pub fn remove_endpoint(&self, id: u32) {
        let removed = lock(&self.endpoints).remove(&id);
        if let Some(endpoint) = removed {
            endpoint.remove();
        }
    }

    /// The endpoints of those numbers, or the first number that is none.
    pub fn endpoints_of(&self, ids: &[u32]) -> Result<Vec<Arc<Endpoint>>, u32> {
        let endpoints = lock(&self.endpoints);
        ids.iter().map(|id| endpoints.get(id).cloned().ok_or(*id)).collect()
    }

    /// Connections to endpoints of a kind.
    pub fn upstream_connections(&self, kind: EndpointKind) -> usize {
        let endpoints: Vec<_> = lock(&self.endpoints).values().filter(|one| one.kind == kind).cloned().collect();
        endpoints.iter().map(|endpoint| endpoint.connections()).sum()
    }

    pub fn total(&self, of: impl Fn(&Counters) -> u64) -> u64 {
        self.shards.iter().map(|shard| of(&shard.counters)).sum()
    }
}
