//! Where a vmodel's requests go: to one model, or to several by weights, with a shadow of some of them for another.

use std::sync::atomic::{AtomicU64, Ordering};

/// Multiples of these, modulo 1 in units of 2^-64, spread evenly however many there are, and pairs of them over the
/// square: the fractions of the golden ratio and of the square root of two. So a share of the requests is that share
/// of any hundred of them, and those mirrored are spread over the targets.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
const ROOT_TWO: u64 = 0x6a09_e667_f3bc_c909;

#[derive(Clone)]
pub enum Alias {
    One(std::sync::Arc<str>),
    Split(std::sync::Arc<Split>),
}

pub struct Split {
    /// Each with the sum of the weights up to its own.
    targets: Box<[(Box<str>, u64)]>,
    mirror: Option<Mirror>,
    turn: AtomicU64,
}

struct Mirror {
    model_id: Box<str>,
    /// In units of 2^-64; the whole is one unit short, which is one request in 2^64.
    share: u64,
}

impl Alias {
    /// Targets with their weights, whose sum is positive; and the model that gets a share of the requests a second time.
    pub fn new(targets: Vec<(String, u32)>, mirror: Option<(String, f64)>) -> Alias {
        let mut sum = 0;
        let mut weighted: Vec<(Box<str>, u64)> = Vec::with_capacity(targets.len());
        for (model_id, weight) in targets {
            sum += u64::from(weight);
            if weight > 0 {
                weighted.push((model_id.into(), sum));
            }
        }
        if let ([(only, _)], None) = (weighted.as_slice(), &mirror) {
            return Alias::One((**only).into());
        }
        // A conversion from f64 ends at the largest u64.
        let share = |share: f64| (share * 2_f64.powi(64)) as u64;
        let mirror = mirror.map(|(model_id, part)| Mirror { model_id: model_id.into(), share: share(part) });
        let split = Split { targets: weighted.into(), mirror, turn: AtomicU64::new(0) };
        Alias::Split(std::sync::Arc::new(split))
    }
}

impl Split {
    /// The next request's model, and the one that gets it a second time.
    pub fn next(&self) -> (&str, Option<&str>) {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let sum = self.targets.last().map_or(1, |(_, sum)| *sum);
        let place = (u128::from(turn.wrapping_mul(GOLDEN)) * u128::from(sum)) >> 64;
        let index = self.targets.partition_point(|(_, below)| u128::from(*below) <= place);
        let model_id = self.targets.get(index).map_or("", |(model_id, _)| model_id);
        let sampled = |mirror: &&Mirror| turn.wrapping_mul(ROOT_TWO) < mirror.share;
        (model_id, self.mirror.as_ref().filter(sampled).map(|mirror| &*mirror.model_id))
    }

    /// Whether requests may go to that model.
    pub fn contains(&self, model_id: &str) -> bool {
        self.targets.iter().any(|(target, _)| **target == *model_id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn split(targets: &[u32], mirror: Option<f64>) -> Alias {
        let targets = targets.iter().enumerate().map(|(number, weight)| (number.to_string(), *weight)).collect();
        Alias::new(targets, mirror.map(|share| ("shadow".to_owned(), share)))
    }

    #[test]
    fn one_model_without_a_shadow_is_no_split() {
        assert!(matches!(split(&[3], None), Alias::One(_)));
        assert!(matches!(split(&[0, 3, 0], None), Alias::One(model_id) if &*model_id == "1"));
        assert!(matches!(split(&[3], Some(0.1)), Alias::Split(_)));
    }

    proptest! {
        #[test]
        fn every_run_of_requests_is_split_by_weight(
            weights in prop::collection::vec(1_u32..1000, 1..5), share in 0.01_f64..=1.0, runs in 1_usize..400,
        ) {
            let Alias::Split(split) = split(&weights, Some(share)) else { panic!() };
            let mut counts: HashMap<(String, bool), f64> = HashMap::new();
            for _ in 0..runs {
                let (model_id, shadow) = split.next();
                prop_assert!(split.contains(model_id));
                *counts.entry((model_id.to_owned(), shadow.is_some())).or_default() += 1.0;
            }
            let count = |target: &str, mirrored: bool| counts.get(&(target.to_owned(), mirrored)).copied().unwrap_or(0.0);
            let sum: u32 = weights.iter().sum();
            let runs = runs as f64;
            // What a random choice would be off by a hundred times as often.
            let slack = 2.0 + runs.ln();
            let mut mirrored = 0.0;
            for (number, weight) in weights.iter().enumerate() {
                let target = number.to_string();
                let wanted = runs * f64::from(*weight) / f64::from(sum);
                let got = count(&target, false) + count(&target, true);
                prop_assert!((got - wanted).abs() <= slack, "{got} for {wanted}");
                mirrored += count(&target, true);
            }
            prop_assert!((mirrored - runs * share).abs() <= slack, "{mirrored} for {}", runs * share);
        }

        #[test]
        fn the_mirrored_are_spread_over_the_targets(weight in 100_u32..900, share in 0.1_f64..0.9) {
            let Alias::Split(split) = split(&[weight, 1000 - weight], Some(share)) else { panic!() };
            let both = (0..10_000).filter(|_| matches!(split.next(), ("0", Some(_)))).count() as f64;
            let wanted = 10_000.0 * share * f64::from(weight) / 1000.0;
            prop_assert!((both - wanted).abs() < 150.0, "{both} for {wanted}");
        }
    }

    #[test]
    fn a_whole_share_is_every_request() {
        let Alias::Split(split) = split(&[1, 1], Some(1.0)) else { panic!() };
        assert!((0..100_000).all(|_| split.next().1 == Some("shadow")));
    }
}
