//! What a load run sends: which models, in which order, and with which message.

use bytes::Bytes;
use clap::{Args, ValueEnum};
use http::{HeaderMap, HeaderValue, Method, Request};

use crate::wire::{Message, framed};

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// An inference: `--bytes` of payload, and the model's id as metadata.
    Infer,
    /// `mmesh.ModelMesh/registerModel`.
    Register,
    /// `mmesh.ModelMesh/ensureLoaded`.
    Ensure,
    /// `mmesh.ModelMesh/unregisterModel`.
    Unregister,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Pick {
    RoundRobin,
    Zipf,
}

#[derive(Args)]
pub struct PlanSettings {
    #[arg(long, value_enum, default_value = "infer")]
    kind: Kind,
    /// Full path of the method; the default is that of the kind of request.
    #[arg(long)]
    method: Option<String>,
    #[arg(long, default_value_t = 120)]
    bytes: usize,
    /// Ids are this prefix and a number; without it an inference names no model.
    #[arg(long)]
    model: Option<String>,
    /// Number of models.
    #[arg(long, default_value_t = 1)]
    models: usize,
    /// Number of the first model.
    #[arg(long, default_value_t = 0)]
    first: usize,
    #[arg(long, value_enum, default_value = "round-robin")]
    pick: Pick,
    #[arg(long, default_value_t = 1.0)]
    zipf_exponent: f64,
    /// `type` of registered models.
    #[arg(long, default_value = "bench")]
    model_type: String,
    /// Register: load at once.
    #[arg(long)]
    load_now: bool,
    /// Register with --load-now, and ensure: answer when the load has ended.
    #[arg(long)]
    sync: bool,
}

/// Makes request number `n`.
pub struct Plan {
    settings: PlanSettings,
    uri: http::Uri,
    payload: Bytes,
    /// Of Zipf's law, cumulative; empty for round robin.
    weights: Vec<f64>,
}

impl Plan {
    /// Fails where the method is no path, or a management call has no model to name.
    pub fn new(settings: PlanSettings) -> Result<Self, String> {
        let usual = match settings.kind {
            Kind::Infer => "/bench.Null/predict",
            Kind::Register => "/mmesh.ModelMesh/registerModel",
            Kind::Ensure => "/mmesh.ModelMesh/ensureLoaded",
            Kind::Unregister => "/mmesh.ModelMesh/unregisterModel",
        };
        let path = settings.method.as_deref().unwrap_or(usual);
        let uri = format!("http://mesh{path}")
            .parse()
            .map_err(|error| format!("--method {path}: {error}"))?;
        if settings.kind != Kind::Infer && settings.model.is_none() {
            return Err("--model is needed: management calls name a model".into());
        }
        if settings.models == 0 {
            return Err("--models must be at least 1".into());
        }
        let payload = framed(&vec![b'q'; settings.bytes]);
        let weights = match settings.pick {
            Pick::RoundRobin => Vec::new(),
            Pick::Zipf => cumulative_zipf(settings.models, settings.zipf_exponent),
        };
        Ok(Self {
            settings,
            uri,
            payload,
            weights,
        })
    }

    pub fn request(&self, n: usize) -> (Request<()>, Bytes) {
        let settings = &self.settings;
        let id = settings
            .model
            .as_ref()
            .map(|prefix| format!("{prefix}{}", settings.first + self.pick(n)));
        let mut headers = HeaderMap::with_capacity(4);
        headers.insert("content-type", HeaderValue::from_static("application/grpc"));
        headers.insert("te", HeaderValue::from_static("trailers"));
        let body = match (settings.kind, id) {
            (Kind::Infer, id) => {
                if let Some(id) = id {
                    headers.insert(
                        "mm-model-id",
                        HeaderValue::try_from(id).expect("prefix was given as text"),
                    );
                }
                self.payload.clone()
            }
            (kind, id) => self.management(kind, &id.unwrap_or_default()),
        };
        let mut request = Request::new(());
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = headers;
        (request, body)
    }

    fn management(&self, kind: Kind, id: &str) -> Bytes {
        let settings = &self.settings;
        let message = Message::default().text(1, id);
        match kind {
            Kind::Register => {
                let info = Message::default().text(1, &settings.model_type).text(2, "bench");
                message
                    .message(2, &info)
                    .number(3, settings.load_now.into())
                    .number(4, settings.sync.into())
            }
            Kind::Ensure => message.number(4, settings.sync.into()),
            Kind::Infer | Kind::Unregister => message,
        }
        .framed()
    }

    fn pick(&self, n: usize) -> usize {
        if self.weights.is_empty() {
            return n % self.settings.models;
        }
        let draw = unit_interval(n as u64);
        self.weights
            .partition_point(|&weight| weight < draw)
            .min(self.settings.models - 1)
    }
}

fn cumulative_zipf(models: usize, exponent: f64) -> Vec<f64> {
    let mut sum = 0.0;
    let mut weights: Vec<f64> = (1..=models)
        .map(|rank| {
            sum += (rank as f64).powf(-exponent);
            sum
        })
        .collect();
    weights.iter_mut().for_each(|weight| *weight /= sum);
    weights
}

/// A number in [0, 1) that looks random and is the same in every run (SplitMix64).
fn unit_interval(n: u64) -> f64 {
    let mut x = n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((x ^ (x >> 31)) >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zipf_gives_the_first_model_its_share() {
        let weights = cumulative_zipf(100, 1.0);
        let draws = 100_000;
        let first = (0..draws).filter(|&n| unit_interval(n) <= weights[0]).count();
        let share = first as f64 / draws as f64;
        assert!(
            (share - weights[0]).abs() < 0.01,
            "{share} of the requests, {} expected",
            weights[0]
        );
        assert!((weights[99] - 1.0).abs() < 1e-9);
    }
}
