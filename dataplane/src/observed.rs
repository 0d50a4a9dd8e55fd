//! Histograms of what Python observes: loads, evictions and the like. Rare, so that a lock costs nothing.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use crate::histogram::{Exemplar, Histogram};
use crate::lock::lock;

/// A family and its series.
pub struct Family {
    pub name: String,
    pub text: String,
    pub bounds: Arc<[f64]>,
    /// Name of its own label; empty where it has none.
    label: String,
    /// By the value of that and the model.
    places: HashMap<(String, String), usize>,
    series: Vec<Arc<Series>>,
}

/// One series, which may be read while others go on.
pub struct Series {
    /// Value of the family's own label.
    pub label: String,
    pub model_id: String,
    /// Both as text for Prometheus: made once, since every scrape needs it.
    pub labels: String,
    pub histogram: Histogram,
    last_used_ms: AtomicU64,
}

impl Family {
    fn series(&mut self, label: &str, model_id: &str, per_model: bool) -> &Series {
        let place = *self.places.entry((label.to_owned(), model_id.to_owned())).or_insert_with(|| {
            let mut labels = String::new();
            if !self.label.is_empty() {
                add_label(&mut labels, &self.label, label);
            }
            if per_model {
                add_label(&mut labels, "modelId", model_id);
                add_label(&mut labels, "vModelId", "");
            }
            self.series.push(Arc::new(Series {
                label: label.to_owned(),
                model_id: model_id.to_owned(),
                labels,
                histogram: Histogram::new(self.bounds.len()),
                last_used_ms: AtomicU64::new(0),
            }));
            self.series.len() - 1
        });
        &self.series[place]
    }

    /// Drops series of models idle since `before_ms`.
    fn expire(&mut self, before_ms: u64) {
        let is_stale =
            |one: &Arc<Series>| !one.model_id.is_empty() && one.last_used_ms.load(Ordering::Relaxed) < before_ms;
        if self.series.iter().any(is_stale) {
            self.series.retain(|one| !is_stale(one));
            let keys = self.series.iter().map(|one| (one.label.clone(), one.model_id.clone()));
            self.places = keys.zip(0..).collect();
        }
    }
}

/// Adds a label to the text of others.
pub fn add_label(text: &mut String, name: &str, value: &str) {
    if !text.is_empty() {
        text.push(',');
    }
    text.push_str(name);
    text.push_str("=\"");
    for character in value.chars() {
        match character {
            '\\' => text.push_str(r"\\"),
            '"' => text.push_str("\\\""),
            '\n' => text.push_str(r"\n"),
            other => text.push(other),
        }
    }
    text.push('"');
}

pub struct Observed {
    per_model: bool,
    most: usize,
    families: Mutex<Vec<Family>>,
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
        let is_new = families.iter().all(|other| other.name != name);
        if is_new {
            let mut family = Family {
                name: name.to_owned(),
                text: text.to_owned(),
                bounds: bounds.into(),
                label: label.to_owned(),
                places: HashMap::new(),
                series: Vec::new(),
            };
            if !self.per_model && label.is_empty() {
                // Its only series, there from the start: Prometheus sees no rise in what a new one begins with.
                family.series("", "", false);
            }
            families.push(family);
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
        let Some(family) = families.iter_mut().find(|other| other.name == name) else { return false };
        let mut model_id = if self.per_model { model_id } else { "" };
        if !model_id.is_empty()
            && family.series.len() >= self.most
            && !family.places.contains_key(&(label.to_owned(), model_id.to_owned()))
        {
            model_id = "";
            self.beyond.fetch_add(1, Ordering::Relaxed);
        }
        let bounds = Arc::clone(&family.bounds);
        let series = family.series(label, model_id, self.per_model);
        series.last_used_ms.store(now_ms, Ordering::Relaxed);
        series.histogram.observe(&bounds, value);
        if trace_id != 0 {
            let exemplar = Exemplar { trace_id: trace_id.to_be_bytes(), value, time_ms: now_ms };
            series.histogram.exemplify(&bounds, exemplar);
        }
        true
    }

    /// Hands each family with its series to `take`, after those of models idle since `before_ms` were dropped.
    pub fn read(&self, before_ms: u64, mut take: impl FnMut(&Family, Vec<Arc<Series>>)) {
        let mut families = lock(&self.families);
        for family in &mut *families {
            family.expire(before_ms);
            take(family, family.series.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::histogram::Reading;

    fn counts(observed: &Observed, before_ms: u64) -> Vec<(String, String, u64)> {
        let mut counts = Vec::new();
        observed.read(before_ms, |_, series| {
            for one in series {
                let mut reading = Reading::default();
                reading.add(&one.histogram);
                counts.push((one.label.clone(), one.model_id.clone(), reading.buckets.iter().sum()));
            }
        });
        counts.sort();
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
