//! Routes and aliases by id.
//!
//! Split into many parts with a lock each, held for a look-up or an insertion only: a Python thread that loses its
//! core while it holds one holds up almost nobody.

use std::hash::BuildHasher;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use hashbrown::{DefaultHashBuilder, HashMap, HashTable};

use crate::alias::Alias;
use crate::endpoint::Endpoint;
use crate::lock::lock;
use crate::model::{Choice, Listed, Model, Usage};

const PARTS: usize = 512;

pub struct Table {
    hasher: DefaultHashBuilder,
    models: Vec<Mutex<HashTable<Arc<Model>>>>,
    aliases: Vec<Mutex<HashMap<Box<str>, Alias>>>,
    routes: AtomicUsize,
    /// Models whose local copy was used since the last report, or is in use.
    used: Mutex<Vec<Arc<Model>>>,
    /// Models without a route that still had requests in flight when it went.
    leaving: Mutex<Vec<Arc<Model>>>,
}

impl Table {
    pub fn new() -> Table {
        Table {
            hasher: DefaultHashBuilder::default(),
            models: (0..PARTS).map(|_| Mutex::default()).collect(),
            aliases: (0..PARTS).map(|_| Mutex::default()).collect(),
            routes: AtomicUsize::new(0),
            used: Mutex::default(),
            leaving: Mutex::default(),
        }
    }

    fn hash(&self, id: &str) -> u64 {
        self.hasher.hash_one(id)
    }

    fn part(hash: u64) -> usize {
        // The low and the top bits choose the place inside the part.
        (hash >> 32) as usize % PARTS
    }

    pub fn get(&self, id: &str) -> Option<Arc<Model>> {
        let hash = self.hash(id);
        lock(&self.models[Self::part(hash)]).find(hash, |model| model.id() == id).cloned()
    }

    fn get_or_insert(&self, id: &str) -> Arc<Model> {
        let hash = self.hash(id);
        let mut part = lock(&self.models[Self::part(hash)]);
        let entry = part.entry(hash, |model| model.id() == id, |model| self.hasher.hash_one(model.id()));
        Arc::clone(entry.or_insert_with(|| Arc::new(Model::new(id))).get())
    }

    fn remove_if_idle(&self, model: &Arc<Model>) -> bool {
        let hash = self.hash(model.id());
        let mut part = lock(&self.models[Self::part(hash)]);
        match part.find_entry(hash, |other| Arc::ptr_eq(other, model)) {
            Ok(entry) if model.detach_if_idle() => {
                entry.remove();
                true
            }
            Ok(_) => false,
            Err(_) => true,
        }
    }

    pub fn set_route(&self, id: &str, endpoints: &[Arc<Endpoint>], max_concurrency: u32, max_queued: i64) {
        if endpoints.is_empty() {
            return self.remove_route(id);
        }
        loop {
            if let Some(listed) = self.get_or_insert(id).set(endpoints, max_concurrency, max_queued) {
                return self.count(&listed);
            }
        }
    }

    pub fn remove_route(&self, id: &str) {
        if let Some(model) = self.get(id) {
            self.count(&model.clear());
            if !self.remove_if_idle(&model) {
                lock(&self.leaving).push(model);
            }
        }
    }

    pub fn close_local(&self, id: &str) -> u32 {
        let Some(model) = self.get(id) else { return 0 };
        let (in_flight, listed) = model.close_local();
        self.count(&listed);
        if !listed.after && !self.remove_if_idle(&model) {
            lock(&self.leaving).push(model);
        }
        in_flight
    }

    fn count(&self, listed: &Listed) {
        match (listed.before, listed.after) {
            (false, true) => self.routes.fetch_add(1, Ordering::Relaxed),
            (true, false) => self.routes.fetch_sub(1, Ordering::Relaxed),
            _ => 0,
        };
    }

    pub fn routes(&self) -> usize {
        self.routes.load(Ordering::Relaxed)
    }

    /// Takes the copy of a model at `endpoint`, in its route or not.
    pub fn take_at(&self, id: &str, endpoint: &Arc<Endpoint>, now_ms: u64) -> Choice {
        loop {
            let model = self.get_or_insert(id);
            if let Some(choice) = model.take_at(endpoint, now_ms) {
                // Without a route it is to leave the table again.
                if model.endpoints().is_empty() {
                    lock(&self.leaving).push(model);
                }
                return choice;
            }
        }
    }

    /// Notes that the local copy is used.
    pub fn report(&self, model: &Arc<Model>) {
        if model.to_be_reported() {
            lock(&self.used).push(Arc::clone(model));
        }
    }

    pub fn take_usage(&self) -> Vec<Usage> {
        let leaving = std::mem::take(&mut *lock(&self.leaving));
        let staying: Vec<_> = leaving.into_iter().filter(|model| !self.is_gone(model)).collect();
        lock(&self.leaving).extend(staying);

        let used = std::mem::take(&mut *lock(&self.used));
        let mut usages = Vec::with_capacity(used.len());
        let mut in_use = Vec::new();
        for model in used {
            let usage = model.take_usage();
            if usage.in_flight > 0 {
                in_use.push(model);
            }
            usages.push(usage);
        }
        lock(&self.used).extend(in_use);
        usages
    }

    /// The model has a route again, or has left the table.
    fn is_gone(&self, model: &Arc<Model>) -> bool {
        !model.endpoints().is_empty() || self.remove_if_idle(model)
    }

    pub fn set_alias(&self, vmodel_id: &str, alias: Alias) {
        let part = Self::part(self.hash(vmodel_id));
        lock(&self.aliases[part]).insert(vmodel_id.into(), alias);
    }

    pub fn remove_alias(&self, vmodel_id: &str) {
        let part = Self::part(self.hash(vmodel_id));
        lock(&self.aliases[part]).remove(vmodel_id);
    }

    pub fn alias(&self, vmodel_id: &str) -> Option<Alias> {
        let part = Self::part(self.hash(vmodel_id));
        lock(&self.aliases[part]).get(vmodel_id).cloned()
    }
}
