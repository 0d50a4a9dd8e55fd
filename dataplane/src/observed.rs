//! Histograms of what Python observes: loads, evictions and the like. Rare, so that a lock costs nothing.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use crate::histogram::{Exemplar, Histogram};
use crate::lock::lock;

/// A family, and its series by the value of its own label and the model.
pub struct Family {
    pub text: String,
    pub bounds: Arc<[f64]>,
    /// Name of its own label; empty where it has none.
    pub label: String,
    series: HashMap<(String, String), Series>,
}

struct Series {
    histogram: Arc<Histogram>,
    last_used_ms: u64,
}

/// One series, to be read while others go on.
pub struct Row {
    pub label: String,
    pub model_id: String,
    pub histogram: Arc<Histogram>,
}

pub struct Observed {
    per_model: bool,
    most: usize,
    families: Mutex<Vec<(String, Family)>>,
    /// Observations that were counted without their model.
    pub beyond: AtomicU64,
}

impl Observed {
    /// Families of at most `most` series each where models are told apart.
    pub fn new(per_model: bool, most: usize) -> Observed {
        Observed { per_model, most, families: Mutex::default(), beyond: AtomicU64::new(0) }
    }

    /// Makes a family; false where there is one of that name.
    pub fn add(&self, name: &str, text: &str, bounds: &[f64], label: &str) -> bool {
        let mut families = lock(&self.families);
        let is_new = families.iter().all(|(other, _)| other != name);
        if is_new {
            let family = Family {
                text: text.to_owned(),
                bounds: bounds.into(),
                label: label.to_owned(),
                series: HashMap::new(),
            };
            families.push((name.to_owned(), family));
        }
        is_new
    }

    /// Counts a value; false where there is no such family.
    ///
    /// That of a traced request, whose id is not 0, becomes the example of its bucket.
    pub fn observe(
        &self,
        name: &str,
        value: f64,
        (label, model_id): (&str, &str),
        trace_id: u128,
        now_ms: u64,
    ) -> bool {
        let mut families = lock(&self.families);
        let Some((_, family)) = families.iter_mut().find(|(other, _)| other == name) else { return false };
        let mut key = (label.to_owned(), if self.per_model { model_id.to_owned() } else { String::new() });
        if !key.1.is_empty() && family.series.len() >= self.most && !family.series.contains_key(&key) {
            key.1.clear();
            self.beyond.fetch_add(1, Ordering::Relaxed);
        }
        let bounds = family.bounds.len();
        let series = family
            .series
            .entry(key)
            .or_insert_with(|| Series { histogram: Arc::new(Histogram::new(bounds)), last_used_ms: 0 });
        series.last_used_ms = now_ms;
        series.histogram.observe(&family.bounds, value);
        if trace_id != 0 {
            let exemplar = Exemplar { trace_id: trace_id.to_be_bytes(), value, time_ms: now_ms };
            series.histogram.exemplify(&family.bounds, exemplar);
        }
        true
    }

    /// Hands each family with its rows to `take`, after series of models idle since `before_ms` were dropped.
    pub fn read(&self, before_ms: u64, mut take: impl FnMut(&str, &Family, Vec<Row>)) {
        let mut families = lock(&self.families);
        for (name, family) in &mut *families {
            family.series.retain(|(_, model_id), series| model_id.is_empty() || series.last_used_ms >= before_ms);
            let mut rows: Vec<Row> = family
                .series
                .iter()
                .map(|((label, model_id), series)| Row {
                    label: label.clone(),
                    model_id: model_id.clone(),
                    histogram: Arc::clone(&series.histogram),
                })
                .collect();
            rows.sort_unstable_by(|one, other| (&one.label, &one.model_id).cmp(&(&other.label, &other.model_id)));
            take(name, family, rows);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::histogram::Reading;

    fn counts(observed: &Observed, before_ms: u64) -> Vec<(String, String, u64)> {
        let mut counts = Vec::new();
        observed.read(before_ms, |_, _, rows| {
            for row in rows {
                let mut reading = Reading::default();
                reading.add(&row.histogram);
                counts.push((row.label, row.model_id, reading.buckets.iter().sum()));
            }
        });
        counts
    }

    #[test]
    fn models_beyond_the_bound_share_a_series_and_idle_ones_make_room() {
        let observed = Observed::new(true, 2);
        assert!(observed.add("took", "", &[1.0], "phase"));
        for (now_ms, model_id) in [(0, "a"), (900, "b"), (900, "c"), (900, "b")] {
            assert!(observed.observe("took", 0.5, ("load", model_id), 0, now_ms));
        }
        let row = |model_id: &str, count| ("load".to_owned(), model_id.to_owned(), count);
        assert_eq!(counts(&observed, 0), [row("", 1), row("a", 1), row("b", 2)]);
        assert_eq!(counts(&observed, 500), [row("", 1), row("b", 2)]);
        assert_eq!(observed.beyond.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn models_are_told_apart_only_where_that_is_wanted() {
        let observed = Observed::new(false, 2);
        observed.add("took", "", &[1.0], "");
        observed.observe("took", 0.5, ("", "a"), 0, 0);
        observed.observe("took", 0.5, ("", "b"), 0, 0);
        assert_eq!(counts(&observed, 0), [(String::new(), String::new(), 2)]);
        assert!(!observed.observe("other", 0.5, ("", "a"), 0, 0));
        assert!(!observed.add("took", "", &[], ""));
    }
}
