//! Histograms, one set per shard: only its thread writes, so that counting needs no contended lock.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use hashbrown::{DefaultHashBuilder, HashTable};
use std::hash::BuildHasher;

use crate::grpc::Code;
use crate::lock::lock;

/// Upper bounds in milliseconds, those of KServe ModelMesh.
pub const TIME_BOUNDS: [f64; 19] = [
    0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 75.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0, 10000.0, 20000.0, 60000.0,
    120_000.0, 300_000.0,
];

/// Upper bounds in bytes, those of KServe ModelMesh.
pub const SIZE_BOUNDS: [f64; 8] = [128.0, 512.0, 2048.0, 8192.0, 32768.0, 131_072.0, 524_288.0, 2_097_152.0];

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

    fn bounds(self) -> &'static [f64] {
        match self {
            Metric::RequestSize | Metric::ResponseSize => &SIZE_BOUNDS,
            _ => &TIME_BOUNDS,
        }
    }
}

/// Counts per bucket. Written by one thread, read by any.
struct Histogram {
    bounds: &'static [f64],
    buckets: Box<[AtomicU64]>,
    /// The bits of an f64.
    sum: AtomicU64,
}

impl Histogram {
    fn new(bounds: &'static [f64]) -> Histogram {
        let buckets = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Histogram { bounds, buckets, sum: AtomicU64::new(0) }
    }

    fn observe(&self, value: f64) {
        let bucket = &self.buckets[self.bounds.partition_point(|&bound| bound < value)];
        bucket.store(bucket.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        let sum = f64::from_bits(self.sum.load(Ordering::Relaxed)) + value;
        self.sum.store(sum.to_bits(), Ordering::Relaxed);
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

    fn labels(&self) -> Labels<'_> {
        Labels { method: &self.method, code: self.code, model_id: &self.model_id, vmodel_id: &self.vmodel_id }
    }

    pub fn observe(&self, metric: Metric, value: f64) {
        self.histograms[metric as usize].get_or_init(|| Histogram::new(metric.bounds())).observe(value);
    }
}

/// One series of one histogram as Python gets it.
pub struct Sample {
    pub name: &'static str,
    pub method: String,
    pub code: &'static str,
    pub model_id: String,
    pub vmodel_id: String,
    pub buckets: Vec<u64>,
    pub sum: f64,
}

/// The series of one shard.
pub struct Metrics {
    per_model: bool,
    max_model_series: usize,
    idle_ms: u64,
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
    pub fn new(per_model: bool, max_model_series: usize, idle_ms: u64) -> Metrics {
        Metrics {
            per_model,
            max_model_series,
            idle_ms,
            hasher: DefaultHashBuilder::default(),
            index: Mutex::default(),
            list: Mutex::default(),
        }
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
        if !wanted.model_id.is_empty() && index.model_series >= self.max_model_series {
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

    /// Drops the series of models that were not used for long.
    pub fn expire(&self, now_ms: u64) {
        let stale = |series: &Series| {
            !series.model_id.is_empty()
                && series.last_used_ms.load(Ordering::Relaxed).saturating_add(self.idle_ms) < now_ms
        };
        let mut index = lock(&self.index);
        let before = index.table.len();
        index.table.retain(|series| !stale(series));
        let dropped = before - index.table.len();
        if dropped > 0 {
            index.model_series -= dropped;
            lock(&self.list).retain(|series| !stale(series));
        }
    }

    fn live(&self) -> Vec<Arc<Series>> {
        lock(&self.list).clone()
    }
}

/// Every live series of all shards, those with equal labels added up.
pub fn collect<'a>(shards: impl Iterator<Item = &'a Metrics>) -> Vec<Sample> {
    let series: Vec<Arc<Series>> = shards.flat_map(Metrics::live).collect();
    let mut samples: Vec<Sample> = Vec::new();
    let mut places: HashMap<(usize, Labels<'_>), usize> = HashMap::with_capacity(series.len());
    for one in &series {
        for (metric, histogram) in Metric::ALL.iter().zip(&one.histograms) {
            let Some(histogram) = histogram.get() else { continue };
            let place = *places.entry((*metric as usize, one.labels())).or_insert_with(|| {
                samples.push(Sample {
                    name: metric.name(),
                    method: one.method.to_string(),
                    code: one.code,
                    model_id: one.model_id.to_string(),
                    vmodel_id: one.vmodel_id.to_string(),
                    buckets: vec![0; histogram.buckets.len()],
                    sum: 0.0,
                });
                samples.len() - 1
            });
            let sample = &mut samples[place];
            for (total, bucket) in sample.buckets.iter_mut().zip(&histogram.buckets) {
                *total += bucket.load(Ordering::Relaxed);
            }
            sample.sum += f64::from_bits(histogram.sum.load(Ordering::Relaxed));
        }
    }
    samples
}

#[cfg(test)]
mod tests {
    use super::*;

    fn models(samples: &[Sample]) -> Vec<&str> {
        let mut ids: Vec<_> = samples.iter().map(|sample| sample.model_id.as_str()).collect();
        ids.sort_unstable();
        ids
    }

    #[test]
    fn a_value_on_a_bound_belongs_below_it() {
        let metrics = Metrics::new(false, 0, 0);
        metrics.series("m", Code::OK, "", "", 0).observe(Metric::RequestSize, 128.0);
        metrics.series("m", Code::OK, "", "", 0).observe(Metric::RequestSize, 128.5);
        metrics.series("m", Code::OK, "", "", 0).observe(Metric::RequestSize, 1e9);
        let samples = collect([&metrics].into_iter());
        assert_eq!(samples[0].buckets, [1, 1, 0, 0, 0, 0, 0, 0, 1]);
    }

    #[test]
    fn models_beyond_the_bound_share_a_series_and_idle_ones_make_room() {
        let metrics = Metrics::new(true, 2, 1000);
        for (now, id) in [(0, "a"), (900, "b"), (900, "c")] {
            metrics.series("m", Code::OK, id, "", now).observe(Metric::ApiRequest, 1.0);
        }
        assert_eq!(models(&collect([&metrics].into_iter())), ["", "a", "b"]);
        metrics.expire(1500);
        metrics.series("m", Code::OK, "c", "", 1500).observe(Metric::ApiRequest, 1.0);
        assert_eq!(models(&collect([&metrics].into_iter())), ["", "b", "c"]);
    }

    #[test]
    fn shards_add_up() {
        let shards = [Metrics::new(true, 9, 0), Metrics::new(true, 9, 0)];
        for shard in &shards {
            shard.series("m", Code::OK, "a", "v", 0).observe(Metric::ApiRequest, 3.0);
        }
        let samples = collect(shards.iter());
        assert_eq!((samples.len(), samples[0].sum, samples[0].buckets[3]), (1, 6.0, 2));
    }
}
