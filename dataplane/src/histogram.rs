//! Counts of observations by size, and the traces that they can be looked up in.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};

use crate::lock::lock;

/// Upper bounds in milliseconds, those of KServe ModelMesh.
pub const TIME_BOUNDS: [f64; 19] = [
    0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 75.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0, 10000.0, 20000.0, 60000.0,
    120_000.0, 300_000.0,
];

/// Upper bounds in bytes, those of KServe ModelMesh.
pub const SIZE_BOUNDS: [f64; 8] = [128.0, 512.0, 2048.0, 8192.0, 32768.0, 131_072.0, 524_288.0, 2_097_152.0];

/// One observation whose trace is kept somewhere.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Exemplar {
    pub trace_id: [u8; 16],
    pub value: f64,
    /// Milliseconds since the epoch.
    pub time_ms: u64,
}

/// Counts per bucket. Written by one thread at a time, read by any.
pub struct Histogram {
    buckets: Box<[AtomicU64]>,
    /// The bits of an f64.
    sum: AtomicU64,
    /// The last of each bucket; made with the first one, since most requests are not traced.
    exemplars: OnceLock<Box<[Mutex<Option<Exemplar>>]>>,
}

impl Histogram {
    /// One with so many bounds, and a bucket for what is beyond the last.
    pub fn new(bounds: usize) -> Histogram {
        let buckets = (0..=bounds).map(|_| AtomicU64::new(0)).collect();
        Histogram { buckets, sum: AtomicU64::new(0), exemplars: OnceLock::new() }
    }

    pub fn observe(&self, bounds: &[f64], value: f64) {
        let bucket = &self.buckets[place(bounds, value)];
        bucket.store(bucket.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        let sum = f64::from_bits(self.sum.load(Ordering::Relaxed)) + value;
        self.sum.store(sum.to_bits(), Ordering::Relaxed);
    }

    /// Makes an observation that has just been counted the example of its bucket.
    pub fn exemplify(&self, bounds: &[f64], exemplar: Exemplar) {
        let all = self.exemplars.get_or_init(|| self.buckets.iter().map(|_| Mutex::default()).collect());
        *lock(&all[place(bounds, exemplar.value)]) = Some(exemplar);
    }
}

/// The bucket of a value; one that is on a bound belongs below it.
fn place(bounds: &[f64], value: f64) -> usize {
    bounds.partition_point(|&bound| bound < value)
}

/// What histograms with the same labels hold together.
#[derive(Default)]
pub struct Reading {
    /// Observations per bucket, not cumulative.
    pub buckets: Vec<u64>,
    pub sum: f64,
    /// Empty or one per bucket, the latest of each.
    pub exemplars: Vec<Option<Exemplar>>,
}

impl Reading {
    pub fn clear(&mut self) {
        self.buckets.clear();
        self.sum = 0.0;
        self.exemplars.clear();
    }

    pub fn add(&mut self, histogram: &Histogram) {
        self.buckets.resize(histogram.buckets.len(), 0);
        for (total, bucket) in self.buckets.iter_mut().zip(&histogram.buckets) {
            *total += bucket.load(Ordering::Relaxed);
        }
        self.sum += f64::from_bits(histogram.sum.load(Ordering::Relaxed));
        let Some(exemplars) = histogram.exemplars.get() else { return };
        self.exemplars.resize(exemplars.len(), None);
        for (latest, exemplar) in self.exemplars.iter_mut().zip(exemplars) {
            let Some(exemplar) = *lock(exemplar) else { continue };
            if latest.is_none_or(|latest| latest.time_ms < exemplar.time_ms) {
                *latest = Some(exemplar);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_on_a_bound_belongs_below_it() {
        let histogram = Histogram::new(SIZE_BOUNDS.len());
        for value in [128.0, 128.5, 1e9] {
            histogram.observe(&SIZE_BOUNDS, value);
        }
        let mut reading = Reading::default();
        reading.add(&histogram);
        assert_eq!((reading.buckets, reading.sum), (vec![1, 1, 0, 0, 0, 0, 0, 0, 1], 1e9 + 256.5));
    }

    #[test]
    fn the_latest_example_of_a_bucket_counts() {
        let example = |value, time_ms| Exemplar { trace_id: [1; 16], value, time_ms };
        let histograms = [Histogram::new(1), Histogram::new(1)];
        histograms[0].exemplify(&[5.0], example(1.0, 20));
        histograms[0].exemplify(&[5.0], example(9.0, 10));
        histograms[1].exemplify(&[5.0], example(2.0, 10));
        histograms[1].exemplify(&[5.0], example(8.0, 20));
        let mut reading = Reading::default();
        histograms.iter().for_each(|histogram| reading.add(histogram));
        assert_eq!(reading.exemplars, [Some(example(1.0, 20)), Some(example(8.0, 20))]);
    }
}
