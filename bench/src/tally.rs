//! What came of the requests of a run, and what the run cost.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use crate::procfs;

const LONGEST: Duration = Duration::from_secs(600);

pub struct Tally {
    latencies: Histogram<u64>,
    /// By gRPC status, or by the kind of transport error; one example of each.
    errors: BTreeMap<String, (u64, String)>,
}

impl Default for Tally {
    fn default() -> Self {
        let longest = LONGEST.as_nanos() as u64;
        let latencies =
            Histogram::new_with_bounds(1, longest, 3).expect("constants within the library's limits");
        Self {
            latencies,
            errors: BTreeMap::new(),
        }
    }
}

impl Tally {
    pub fn ok(&mut self, latency: Duration) {
        self.latencies.saturating_record(latency.as_nanos() as u64);
    }

    pub fn error(&mut self, kind: String, example: String) {
        self.errors.entry(kind).or_insert((0, example)).0 += 1;
    }

    pub fn report(&self, elapsed: Duration) -> Value {
        let us = |nanoseconds: u64| nanoseconds as f64 / 1000.0;
        let quantile = |q: f64| us(self.latencies.value_at_quantile(q));
        let ok = self.latencies.len();
        json!({
            "seconds": elapsed.as_secs_f64(),
            "ok": ok,
            "rps": ok as f64 / elapsed.as_secs_f64(),
            "errors": self.errors.iter().map(|(kind, (count, example))| {
                (kind.clone(), json!({"count": count, "example": example}))
            }).collect::<serde_json::Map<_, _>>(),
            "latency_us": {
                "p50": quantile(0.5), "p90": quantile(0.9), "p99": quantile(0.99), "p999": quantile(0.999),
                "max": us(self.latencies.max()), "mean": self.latencies.mean() / 1000.0,
            },
        })
    }
}

/// CPU and memory of the watched processes between two moments, read by the generator itself so that both
/// lie exactly at the ends of what it measured.
pub struct Meter {
    started: Instant,
    machine: Option<f64>,
    own: Option<f64>,
    watched: Vec<(u32, Option<f64>)>,
}

impl Meter {
    pub fn start(watch: &[u32]) -> Self {
        Self {
            started: Instant::now(),
            machine: procfs::machine_busy_seconds(),
            own: procfs::cpu_seconds(std::process::id()),
            watched: watch.iter().map(|&pid| (pid, procfs::cpu_seconds(pid))).collect(),
        }
    }

    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    pub fn report(&self) -> Value {
        let since = |now: Option<f64>, then: Option<f64>| Some(now? - then?);
        json!({
            "machine_cpu_seconds": since(procfs::machine_busy_seconds(), self.machine),
            "own_cpu_seconds": since(procfs::cpu_seconds(std::process::id()), self.own),
            "watched": self.watched.iter().map(|&(pid, then)| json!({
                "pid": pid,
                "cpu_seconds": since(procfs::cpu_seconds(pid), then),
                "resident_bytes": procfs::resident_bytes(pid),
            })).collect::<Vec<_>>(),
        })
    }
}
