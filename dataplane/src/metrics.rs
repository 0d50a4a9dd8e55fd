//! Histograms of requests, one set per shard: only its thread writes, so that counting needs no contended lock.

use std::collections::HashSet;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use hashbrown::{DefaultHashBuilder, HashTable};

use crate::grpc::Code;
use crate::histogram::{Exemplar, Histogram, Reading, SIZE_BOUNDS, TIME_BOUNDS};
use crate::lock::lock;

/// Series of methods and codes alone; clients can make up method names.
const MAX_PLAIN_SERIES: usize = 4096;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metric {
    ApiRequest,
    InvokeModel,
    RequestSize,
    ResponseSize,
    QueueDelay,
}

impl Metric {
    pub const ALL: [Metric; 5] =
        [Metric::ApiRequest, Metric::InvokeModel, Metric::RequestSize, Metric::ResponseSize, Metric::QueueDelay];

    pub fn name(self) -> &'static str {
        match self {
            Metric::ApiRequest => "api_request_milliseconds",
            Metric::InvokeModel => "invoke_model_milliseconds",
            Metric::RequestSize => "request_size_bytes",
            Metric::ResponseSize => "response_size_bytes",
            Metric::QueueDelay => "req_queue_delay_milliseconds",
        }
    }

    /// What is observed.
    pub fn text(self) -> &'static str {
        match self {
            Metric::ApiRequest => "External requests, at the instance that took them",
            Metric::InvokeModel => "Calls of the model server, at the instance beside it",
            Metric::RequestSize => "External requests",
            Metric::ResponseSize => "Successful responses to external requests",
            Metric::QueueDelay => "Wait for a slot of a model with limited concurrency",
        }
    }

    pub fn bounds(self) -> &'static [f64] {
        match self {
            Metric::RequestSize | Metric::ResponseSize => &SIZE_BOUNDS,
            _ => &TIME_BOUNDS,
        }
    }
}

/// The labels of a series.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Labels<'a> {
    pub method: &'a str,
    pub code: &'static str,
    pub model_id: &'a str,
    pub vmodel_id: &'a str,
}

impl Labels<'_> {
    /// The same as `==`, but that it compares nothing that is empty.
    ///
    /// Most labels are, and an empty string points nowhere. glibc reads there under a mask of no bytes, which some CPUs
    /// take hundreds of cycles to find out to be no fault.
    fn are(&self, other: &Labels<'_>) -> bool {
        let same = |one: &str, other: &str| one.len() == other.len() && (one.is_empty() || one == other);
        same(self.method, other.method)
            && same(self.code, other.code)
            && same(self.model_id, other.model_id)
            && same(self.vmodel_id, other.vmodel_id)
    }
}

/// All histograms with the same labels.
pub struct Series {
    method: Box<str>,
    code: &'static str,
    model_id: Box<str>,
    vmodel_id: Box<str>,
    last_used_ms: AtomicU64,
    histograms: [OnceLock<Histogram>; Metric::ALL.len()],
}

impl Series {
    fn new(labels: Labels<'_>) -> Series {
        Series {
            method: labels.method.into(),
            code: labels.code,
            model_id: labels.model_id.into(),
            vmodel_id: labels.vmodel_id.into(),
            last_used_ms: AtomicU64::new(0),
            histograms: Default::default(),
        }
    }

    pub fn labels(&self) -> Labels<'_> {
        Labels { method: &self.method, code: self.code, model_id: &self.model_id, vmodel_id: &self.vmodel_id }
    }

    pub fn observe(&self, metric: Metric, value: f64) {
        self.made(metric).observe(metric.bounds(), value);
    }

    /// Makes a traced observation, which `observe` has counted, the example of its bucket.
    pub fn exemplify(&self, metric: Metric, exemplar: Exemplar) {
        self.made(metric).exemplify(metric.bounds(), exemplar);
    }

    pub fn histogram(&self, metric: Metric) -> Option<&Histogram> {
        self.histograms[metric as usize].get()
    }

    fn made(&self, metric: Metric) -> &Histogram {
        self.histograms[metric as usize].get_or_init(|| Histogram::new(metric.bounds().len()))
    }
}

/// How many series of models there may be in all shards together, and which there are.
///
/// The shards admit the same ones: a model that had a series in one of them alone would be seen with a part of its
/// requests.
pub struct Bound {
    most: usize,
    admitted: Mutex<HashTable<(u64, usize)>>,
    /// Observations that were counted without their model.
    pub beyond: AtomicU64,
}

impl Bound {
    pub fn new(most: usize) -> Bound {
        Bound { most, admitted: Mutex::default(), beyond: AtomicU64::new(0) }
    }

    /// Series of models.
    pub fn series(&self) -> usize {
        lock(&self.admitted).len()
    }

    /// Takes a series of one shard in, by the hash of its labels, unless there are too many.
    fn admit(&self, hash: u64) -> bool {
        let mut admitted = lock(&self.admitted);
        if let Some((_, shards)) = admitted.find_mut(hash, |one| one.0 == hash) {
            *shards += 1;
            return true;
        }
        let has_room = admitted.len() < self.most;
        if has_room {
            admitted.insert_unique(hash, (hash, 1), |one| one.0);
        } else {
            self.beyond.fetch_add(1, Ordering::Relaxed);
        }
        has_room
    }

    fn leave(&self, hash: u64) {
        let mut admitted = lock(&self.admitted);
        let Ok(mut entry) = admitted.find_entry(hash, |one| one.0 == hash) else { return };
        entry.get_mut().1 -= 1;
        if entry.get().1 == 0 {
            entry.remove();
        }
    }
}

/// The series of one shard.
pub struct Metrics {
    per_model: bool,
    bound: Arc<Bound>,
    /// Of the bound, too.
    hasher: DefaultHashBuilder,
    /// For look-up, by the shard's thread alone.
    index: Mutex<Index>,
    /// The same, for reading: locked only to copy pointers.
    list: Mutex<Vec<Arc<Series>>>,
}

#[derive(Default)]
struct Index {
    table: HashTable<Arc<Series>>,
    model_series: usize,
}

impl Metrics {
    /// The series of as many shards as wanted.
    pub fn shards(number: usize, per_model: bool, bound: &Arc<Bound>) -> impl Iterator<Item = Metrics> {
        let hasher = DefaultHashBuilder::default();
        let bound = Arc::clone(bound);
        (0..number).map(move |_| Metrics {
            per_model,
            bound: Arc::clone(&bound),
            hasher: hasher.clone(),
            index: Mutex::default(),
            list: Mutex::default(),
        })
    }

    /// The series of a method, a code and, where they are told apart, a model.
    pub fn series(&self, method: &str, code: Code, model_id: &str, vmodel_id: &str, now_ms: u64) -> Arc<Series> {
        self.find(method, code.name(), model_id, vmodel_id, now_ms)
    }

    /// The series of a model alone.
    pub fn model_series(&self, model_id: &str, vmodel_id: &str, now_ms: u64) -> Arc<Series> {
        self.find("", "", model_id, vmodel_id, now_ms)
    }

    fn find(&self, method: &str, code: &'static str, model_id: &str, vmodel_id: &str, now_ms: u64) -> Arc<Series> {
        let (model_id, vmodel_id) = if self.per_model { (model_id, vmodel_id) } else { ("", "") };
        let mut index = lock(&self.index);
        let wanted = Labels { method, code, model_id, vmodel_id };
        let series = self.find_or_make(&mut index, wanted);
        series.last_used_ms.store(now_ms, Ordering::Relaxed);
        series
    }

    fn find_or_make(&self, index: &mut Index, wanted: Labels<'_>) -> Arc<Series> {
        let hash = self.hasher.hash_one(wanted);
        if let Some(series) = index.table.find(hash, |series| series.labels().are(&wanted)) {
            return Arc::clone(series);
        }
        let plain = index.table.len() - index.model_series;
        if !wanted.model_id.is_empty() && !self.bound.admit(hash) {
            return self.find_or_make(index, Labels { model_id: "", vmodel_id: "", ..wanted });
        }
        if wanted.model_id.is_empty() && plain >= MAX_PLAIN_SERIES && !wanted.method.is_empty() {
            return self.find_or_make(index, Labels { method: "", ..wanted });
        }
        let series = Arc::new(Series::new(wanted));
        index.model_series += usize::from(!wanted.model_id.is_empty());
        index.table.insert_unique(hash, Arc::clone(&series), |series| self.hasher.hash_one(series.labels()));
        lock(&self.list).push(Arc::clone(&series));
        series
    }

    /// Drops those of a group's series that are of this shard.
    fn drop_series(&self, stale: &HashSet<*const Series>) {
        lock(&self.list).retain(|series| !stale.contains(&Arc::as_ptr(series)));
        let mut index = lock(&self.index);
        let stale = index.table.extract_if(|series| stale.contains(&Arc::as_ptr(series)));
        let dropped: Vec<Arc<Series>> = stale.collect();
        index.model_series -= dropped.len();
        drop(index);
        for series in dropped {
            self.bound.leave(self.hasher.hash_one(series.labels()));
        }
    }

    fn live(&self) -> Vec<Arc<Series>> {
        lock(&self.list).clone()
    }
}

/// The series of all shards that are shown as one.
pub struct Group {
    series: Vec<Arc<Series>>,
    full_method_names: bool,
}

impl Group {
    fn shown(series: &Series, full_method_names: bool) -> Labels<'_> {
        let labels = series.labels();
        let method = labels.method.rsplit('/').next().filter(|_| !full_method_names).unwrap_or(labels.method);
        Labels { method, ..labels }
    }

    pub fn labels(&self) -> Labels<'_> {
        Group::shown(&self.series[0], self.full_method_names)
    }

    /// Adds up what was observed; leaves the reading empty where nothing was.
    pub fn read(&self, metric: Metric, reading: &mut Reading) {
        for histogram in self.series.iter().filter_map(|series| series.histogram(metric)) {
            reading.add(histogram);
        }
    }

    fn is_stale(&self, before_ms: u64) -> bool {
        let used = |series: &Arc<Series>| series.last_used_ms.load(Ordering::Relaxed);
        !self.labels().model_id.is_empty() && self.series.iter().all(|series| used(series) < before_ms)
    }
}

/// The series of all shards by what is shown of their labels.
///
/// Those of models that nobody has used since `before_ms` are dropped: only seen together are they known to be idle, and
/// a sum that lost a part of itself would look like a counter that began anew.
pub fn collect(shards: &[&Metrics], full_method_names: bool, before_ms: u64) -> Vec<Group> {
    let hasher = DefaultHashBuilder::default();
    let mut groups: Vec<Group> = Vec::new();
    let mut places: HashTable<usize> = HashTable::new();
    for series in shards.iter().flat_map(|shard| shard.live()) {
        let shown = Group::shown(&series, full_method_names);
        let hash = hasher.hash_one(shown);
        if let Some(&place) = places.find(hash, |&place| groups[place].labels().are(&shown)) {
            groups[place].series.push(series);
        } else {
            groups.push(Group { series: vec![series], full_method_names });
            places.insert_unique(hash, groups.len() - 1, |&place| hasher.hash_one(groups[place].labels()));
        }
    }
    let (stale, live): (Vec<Group>, Vec<Group>) = groups.into_iter().partition(|group| group.is_stale(before_ms));
    if !stale.is_empty() {
        let series: HashSet<*const Series> = stale.iter().flat_map(|group| &group.series).map(Arc::as_ptr).collect();
        shards.iter().for_each(|shard| shard.drop_series(&series));
    }
    live
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shards(number: usize, most: usize) -> (Vec<Metrics>, Arc<Bound>) {
        let bound = Arc::new(Bound::new(most));
        (Metrics::shards(number, true, &bound).collect(), bound)
    }

    fn observe(metrics: &Metrics, now_ms: u64, method: &str, model_id: &str) {
        metrics.series(method, Code::OK, model_id, "", now_ms).observe(Metric::ApiRequest, 3.0);
    }

    /// The model of each group, and how many requests it had.
    fn counts(shards: &[Metrics], before_ms: u64) -> Vec<(String, u64)> {
        let shards: Vec<&Metrics> = shards.iter().collect();
        let mut counts: Vec<_> = collect(&shards, false, before_ms)
            .iter()
            .map(|group| {
                let mut reading = Reading::default();
                group.read(Metric::ApiRequest, &mut reading);
                (group.labels().model_id.to_owned(), reading.buckets.iter().sum())
            })
            .collect();
        counts.sort();
        counts
    }

    fn those(counts: &[(&str, u64)]) -> Vec<(String, u64)> {
        counts.iter().map(|(model_id, count)| ((*model_id).to_owned(), *count)).collect()
    }

    #[test]
    fn models_beyond_the_bound_share_a_series_and_idle_ones_make_room() {
        let (shards, bound) = shards(1, 2);
        for (now_ms, model_id) in [(0, "a"), (900, "b"), (900, "c")] {
            observe(&shards[0], now_ms, "m", model_id);
        }
        assert_eq!(counts(&shards, 0), those(&[("", 1), ("a", 1), ("b", 1)]));
        assert_eq!((bound.series(), bound.beyond.load(Ordering::Relaxed)), (2, 1));
        assert_eq!(counts(&shards, 500), those(&[("", 1), ("b", 1)]));
        observe(&shards[0], 1500, "m", "c");
        assert_eq!(counts(&shards, 500), those(&[("", 1), ("b", 1), ("c", 1)]));
    }

    #[test]
    fn a_model_has_its_own_series_in_all_shards_or_in_none() {
        let (shards, bound) = shards(2, 1);
        observe(&shards[0], 0, "m", "a");
        observe(&shards[1], 0, "m", "a");
        observe(&shards[1], 0, "m", "b");
        assert_eq!(counts(&shards, 0), those(&[("", 1), ("a", 2)]));
        assert_eq!(bound.series(), 1);
    }

    #[test]
    fn a_model_in_use_loses_nothing_of_what_an_idle_shard_counted() {
        let (shards, bound) = shards(2, 9);
        observe(&shards[0], 0, "m", "a");
        observe(&shards[1], 1000, "m", "a");
        assert_eq!(counts(&shards, 500), those(&[("a", 2)]));
        assert_eq!(counts(&shards, 1001), []);
        assert_eq!(bound.series(), 0);
    }

    #[test]
    fn methods_of_one_name_are_shown_as_one() {
        let (shards, _) = shards(1, 9);
        observe(&shards[0], 0, "a.Service/Predict", "x");
        observe(&shards[0], 0, "b.Service/Predict", "x");
        assert_eq!(counts(&shards, 0), those(&[("x", 2)]));
        assert_eq!(collect(&[&shards[0]], true, 0).len(), 2);
    }
}
