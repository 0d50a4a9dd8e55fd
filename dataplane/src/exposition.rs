//! Histograms as the text that Prometheus reads.
//!
//! Ten thousand models have 660,000 lines of requests alone, which prometheus-client needs seconds of the GIL for. They are
//! written here piece by piece, on the thread that answers the scrape, and neither copied nor kept.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::Arc;

use flate2::Compression;
use flate2::write::GzEncoder;

use crate::histogram::{Exemplar, Reading};
use crate::metrics::{Group, Labels, Metric};
use crate::observed::{self, Observed, add_label};

/// Text that is made at once, bytes.
const PIECE: usize = 256 << 10;

/// What one scrape asks for.
pub struct Wanted {
    /// Put before the name of each family.
    pub prefix: String,
    pub openmetrics: bool,
    pub per_model: bool,
    /// Samples or families; empty for all.
    pub names: HashSet<String>,
}

/// The samples of a family that are wanted.
#[derive(Clone, Copy)]
struct Samples {
    buckets: bool,
    count: bool,
    sum: bool,
}

impl Samples {
    fn of(name: &str, names: &HashSet<String>) -> Option<Samples> {
        let all = names.is_empty() || names.contains(name);
        let has = |suffix: &str| all || names.contains(&format!("{name}{suffix}"));
        let samples = Samples { buckets: has("_bucket"), count: has("_count"), sum: has("_sum") };
        (samples.buckets || samples.count || samples.sum).then_some(samples)
    }
}

/// A family on its way out.
struct Page {
    name: String,
    text: String,
    /// What ends the labels of each bucket's line.
    ends: Vec<String>,
    samples: Samples,
    rows: Rows,
}

enum Rows {
    Requests(Metric, Arc<Vec<(String, Group)>>),
    Observed(Vec<Arc<observed::Series>>),
}

impl Rows {
    /// The labels of a row, and what it holds; nothing beyond the last.
    fn read(&self, index: usize, reading: &mut Reading) -> Option<&str> {
        reading.clear();
        match self {
            Rows::Requests(metric, groups) => groups.get(index).map(|(labels, group)| {
                group.read(*metric, reading);
                labels.as_str()
            }),
            Rows::Observed(series) => series.get(index).map(|series| {
                reading.add(&series.histogram);
                series.labels.as_str()
            }),
        }
    }
}

/// The answer to a scrape, made while it is sent.
pub struct Scrape {
    openmetrics: bool,
    pages: std::vec::IntoIter<Page>,
    page: Option<Page>,
    row: usize,
    /// What follows the histograms; none once it was given.
    after: Option<Vec<u8>>,
    text: Vec<u8>,
    gzip: Option<GzEncoder<Vec<u8>>>,
    reading: Reading,
    head: String,
}

impl Scrape {
    /// The histograms, between `before` and `after`.
    pub fn new(
        wanted: &Wanted,
        groups: Vec<Group>,
        observed: (&Observed, u64),
        gzip: bool,
        before: &[u8],
        after: &[u8],
    ) -> Scrape {
        let groups = groups.into_iter().map(|group| (request_labels(group.labels(), wanted.per_model), group));
        let groups = Arc::new(groups.collect::<Vec<_>>());
        let mut pages = Vec::new();
        for metric in Metric::ALL {
            let rows = || Rows::Requests(metric, Arc::clone(&groups));
            pages.extend(page(wanted, metric.name(), metric.text(), metric.bounds(), rows));
        }
        let (observed, before_ms) = observed;
        observed.read(before_ms, |family, series| {
            pages.extend(page(wanted, &family.name, &family.text, &family.bounds, || Rows::Observed(series)));
        });
        let mut scrape = Scrape {
            openmetrics: wanted.openmetrics,
            pages: pages.into_iter(),
            page: None,
            row: 0,
            after: Some(after.to_vec()),
            text: before.to_vec(),
            gzip: gzip.then(|| GzEncoder::new(Vec::new(), Compression::fast())),
            reading: Reading::default(),
            head: String::new(),
        };
        scrape.turn();
        scrape
    }

    /// The next piece; empty after the last.
    pub fn read(&mut self) -> Vec<u8> {
        loop {
            let is_over = self.write();
            let piece = self.take(is_over);
            if is_over || !piece.is_empty() {
                return piece;
            }
        }
    }

    /// Writes a piece of text; true once there is no more.
    fn write(&mut self) -> bool {
        while self.text.len() < PIECE {
            let Some(page) = &self.page else {
                self.text.append(&mut self.after.take().unwrap_or_default());
                return true;
            };
            if let Some(labels) = page.rows.read(self.row, &mut self.reading) {
                if !self.reading.buckets.is_empty() {
                    series(&mut self.text, page, labels, &self.reading, self.openmetrics, &mut self.head);
                }
                self.row += 1;
            } else {
                self.turn();
            }
        }
        false
    }

    /// Goes on to the next family.
    fn turn(&mut self) {
        self.page = self.pages.next();
        self.row = 0;
        if let Some(Page { name, text, .. }) = &self.page {
            let text = text.replace('\\', r"\\").replace('\n', r"\n");
            // Writing to memory cannot fail, here and below.
            let _ = write!(self.text, "# HELP {name} {text}\n# TYPE {name} histogram\n");
        }
    }

    /// What can be sent of what was written; all of it where that `is_over`.
    fn take(&mut self, is_over: bool) -> Vec<u8> {
        let Some(gzip) = &mut self.gzip else {
            return std::mem::replace(&mut self.text, Vec::with_capacity(PIECE + PIECE / 8));
        };
        let _ = gzip.write_all(&self.text);
        self.text.clear();
        if is_over {
            let _ = gzip.try_finish();
        }
        std::mem::take(gzip.get_mut())
    }
}

fn page(wanted: &Wanted, name: &str, text: &str, bounds: &[f64], rows: impl FnOnce() -> Rows) -> Option<Page> {
    let name = format!("{}{name}", wanted.prefix);
    let samples = Samples::of(&name, &wanted.names)?;
    let ends = bounds.iter().map(|bound| format!("{bound:?}\"}} ")).chain(["+Inf\"} ".to_owned()]).collect();
    Some(Page { name, text: text.to_owned(), ends, samples, rows: rows() })
}

/// Writes the lines of one series.
fn series(text: &mut Vec<u8>, page: &Page, labels: &str, reading: &Reading, openmetrics: bool, head: &mut String) {
    let name = &page.name;
    let mut total = 0;
    if page.samples.buckets {
        head.clear();
        let comma = if labels.is_empty() { "" } else { "," };
        let _ = write!(head, "{name}_bucket{{{labels}{comma}le=\"");
    }
    for (index, (count, end)) in reading.buckets.iter().zip(&page.ends).enumerate() {
        total += count;
        if !page.samples.buckets {
            continue;
        }
        text.extend_from_slice(head.as_bytes());
        text.extend_from_slice(end.as_bytes());
        let _ = write!(text, "{total}");
        if openmetrics && let Some(Some(exemplar)) = reading.exemplars.get(index) {
            example(text, exemplar);
        }
        text.push(b'\n');
    }
    let (open, close) = if labels.is_empty() { ("", "") } else { ("{", "}") };
    if page.samples.count {
        let _ = writeln!(text, "{name}_count{open}{labels}{close} {total}");
    }
    if page.samples.sum {
        let _ = writeln!(text, "{name}_sum{open}{labels}{close} {}", reading.sum);
    }
}

fn example(text: &mut Vec<u8>, exemplar: &Exemplar) {
    text.extend_from_slice(b" # {trace_id=\"");
    for byte in exemplar.trace_id {
        let _ = write!(text, "{byte:02x}");
    }
    let (seconds, milliseconds) = (exemplar.time_ms / 1000, exemplar.time_ms % 1000);
    let _ = write!(text, "\"}} {} {seconds}.{milliseconds:03}", exemplar.value);
}

fn request_labels(labels: Labels<'_>, per_model: bool) -> String {
    let mut text = String::new();
    if !labels.code.is_empty() {
        add_label(&mut text, "method", labels.method);
        add_label(&mut text, "code", labels.code);
    }
    if per_model {
        add_label(&mut text, "modelId", labels.model_id);
        add_label(&mut text, "vModelId", labels.vmodel_id);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grpc::Code;
    use crate::metrics::{Bound, Metrics, collect};

    fn wanted(openmetrics: bool, names: &[&str]) -> Wanted {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        Wanted { prefix: "mesh_".to_owned(), openmetrics, per_model: true, names }
    }

    fn shard() -> Metrics {
        Metrics::shards(1, true, &Arc::new(Bound::new(1 << 20))).next().unwrap()
    }

    fn text(wanted: &Wanted, metrics: &Metrics, observed: &Observed) -> String {
        let mut scrape =
            Scrape::new(wanted, collect(&[metrics], false, 0), (observed, 0), false, b"first\n", b"last\n");
        let mut text = Vec::new();
        loop {
            let piece = scrape.read();
            if piece.is_empty() {
                return String::from_utf8(text).unwrap();
            }
            text.extend(piece);
        }
    }

    #[test]
    fn lines_are_those_of_the_format() {
        let (metrics, observed) = (shard(), Observed::new(true, 9));
        metrics.series("p.S/Predict", Code::OK, "a\"\\\n", "v", 0).observe(Metric::RequestSize, 200.0);
        observed.add("took", "How long\nit took", &[0.5, 1e10], "phase");
        observed.observe("took", 0.25, ("load", "m"), 0, 0);
        let text = text(&wanted(false, &[]), &metrics, &observed);
        let labels = r#"method="Predict",code="OK",modelId="a\"\\\n",vModelId="v""#;
        for line in [
            "# TYPE mesh_request_size_bytes histogram",
            &format!(r#"mesh_request_size_bytes_bucket{{{labels},le="128.0"}} 0"#),
            &format!(r#"mesh_request_size_bytes_bucket{{{labels},le="512.0"}} 1"#),
            &format!(r#"mesh_request_size_bytes_bucket{{{labels},le="+Inf"}} 1"#),
            &format!("mesh_request_size_bytes_count{{{labels}}} 1"),
            &format!("mesh_request_size_bytes_sum{{{labels}}} 200"),
            r"# HELP mesh_took How long\nit took",
            r#"mesh_took_bucket{phase="load",modelId="m",vModelId="",le="10000000000.0"} 1"#,
            r#"mesh_took_sum{phase="load",modelId="m",vModelId=""} 0.25"#,
        ] {
            assert!(text.lines().any(|other| other == line), "{line}\nis not in\n{text}");
        }
        assert!(text.starts_with("first\n# HELP mesh_api_request_milliseconds ") && text.ends_with("\nlast\n"));
    }

    #[test]
    fn only_what_is_asked_for_is_written() {
        let (metrics, observed) = (shard(), Observed::new(true, 9));
        let series = metrics.series("Predict", Code::OK, "a", "", 0);
        series.observe(Metric::RequestSize, 1.0);
        series.observe(Metric::ApiRequest, 1.0);
        let names = wanted(false, &["mesh_request_size_bytes_count", "other"]);
        let lines = text(&names, &metrics, &observed);
        let samples: Vec<&str> = lines.lines().filter(|line| line.starts_with("mesh_")).collect();
        assert_eq!(samples, [r#"mesh_request_size_bytes_count{method="Predict",code="OK",modelId="a",vModelId=""} 1"#]);
        let all = text(&wanted(false, &["mesh_request_size_bytes"]), &metrics, &observed);
        assert_eq!(all.lines().filter(|line| line.starts_with("mesh_")).count(), 11);
    }

    #[test]
    fn examples_are_for_openmetrics_alone() {
        let (metrics, observed) = (shard(), Observed::new(true, 9));
        let series = metrics.series("Predict", Code::OK, "", "", 0);
        series.observe(Metric::ApiRequest, 1.5);
        series.exemplify(Metric::ApiRequest, Exemplar { trace_id: [0xab; 16], value: 1.5, time_ms: 1_700_000_000_012 });
        let example = format!(" 1 # {{trace_id=\"{}\"}} 1.5 1700000000.012\n", "ab".repeat(16));
        let open = text(&wanted(true, &[]), &metrics, &observed);
        assert_eq!(open.matches("trace_id").count(), 1);
        assert!(open.contains(&format!("le=\"2.0\"}}{example}")), "{open}");
        assert!(!text(&wanted(false, &[]), &metrics, &observed).contains("trace_id"));
    }

    #[test]
    fn pieces_and_their_compression_lose_nothing() {
        use std::io::Read as _;
        let (metrics, observed) = (shard(), Observed::new(true, 9));
        for model in 0..2000 {
            metrics.series("Predict", Code::OK, &format!("model-{model}"), "", 0).observe(Metric::ApiRequest, 1.0);
        }
        let wanted = wanted(false, &[]);
        let plain = text(&wanted, &metrics, &observed);
        assert_eq!(plain.matches("_count{").count(), 2000);
        let mut scrape =
            Scrape::new(&wanted, collect(&[&metrics], false, 0), (&observed, 0), true, b"first\n", b"last\n");
        let mut packed = Vec::new();
        while let piece = scrape.read()
            && !piece.is_empty()
        {
            packed.extend(piece);
        }
        let mut unpacked = String::new();
        flate2::read::GzDecoder::new(packed.as_slice()).read_to_string(&mut unpacked).unwrap();
        assert_eq!(unpacked, plain);
    }
}
