//! W3C Trace Context: reading it, deciding whether a trace is sampled, and what the next hop gets to see.

use http::{HeaderMap, HeaderName, HeaderValue};

pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

const SAMPLED: u8 = 1;
/// The trace id was drawn at random, so that whoever comes after may sample by it.
const RANDOM: u8 = 2;

/// Length of version 00, which later versions begin with.
const LENGTH: usize = 55;

/// A span and the trace that it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpanContext {
    pub trace_id: u128,
    pub span_id: u64,
    flags: u8,
}

impl SpanContext {
    /// The first span of a new trace, not sampled yet.
    fn root() -> SpanContext {
        SpanContext { trace_id: fastrand::u128(1..), span_id: 0, flags: RANDOM }.child()
    }

    /// A new span of the same trace.
    pub fn child(self) -> SpanContext {
        SpanContext { span_id: fastrand::u64(1..), ..self }
    }

    /// Another span of the same trace.
    pub fn with_span(self, span_id: u64) -> SpanContext {
        SpanContext { span_id, ..self }
    }

    fn is_sampled(self) -> bool {
        self.flags & SAMPLED != 0
    }

    fn sampled(self) -> SpanContext {
        SpanContext { flags: self.flags | SAMPLED, ..self }
    }

    fn not_sampled(self) -> SpanContext {
        SpanContext { flags: self.flags & !SAMPLED, ..self }
    }

    pub fn trace_hex(self) -> String {
        format!("{:032x}", self.trace_id)
    }

    pub fn span_hex(self) -> String {
        format!("{:016x}", self.span_id)
    }

    /// The value of `traceparent`.
    pub fn text(self) -> String {
        format!("00-{:032x}-{:016x}-{:02x}", self.trace_id, self.span_id, self.flags)
    }

    /// Writes it where the next hop looks for its parent.
    pub fn write(self, headers: &mut HeaderMap) {
        headers.insert(TRACEPARENT, HeaderValue::from_str(&self.text()).expect("hexadecimal digits and hyphens"));
    }

    /// Reads the value of `traceparent`; None where it is none. Flags that are not known here are left out.
    fn parse(value: &[u8]) -> Option<SpanContext> {
        let (version, rest) = (hexadecimal(value.get(..2)?)?, value.get(LENGTH..)?);
        let is_whole = match version {
            0 => rest.is_empty(),
            0xff => false,
            _ => rest.first().is_none_or(|&byte| byte == b'-'),
        };
        let has_hyphens = [2, 35, 52].iter().all(|&at| value[at] == b'-');
        let context = SpanContext {
            trace_id: hexadecimal(&value[3..35])?,
            span_id: u64::try_from(hexadecimal(&value[36..52])?).ok()?,
            flags: u8::try_from(hexadecimal(&value[53..55])?).ok()? & (SAMPLED | RANDOM),
        };
        (is_whole && has_hyphens && context.trace_id != 0 && context.span_id != 0).then_some(context)
    }

    /// The context in a request's head. One that is there twice counts as none.
    fn of(headers: &HeaderMap) -> Option<SpanContext> {
        let mut values = headers.get_all(TRACEPARENT).iter();
        let value = values.next()?;
        if values.next().is_some() { None } else { SpanContext::parse(value.as_bytes()) }
    }
}

/// A number in lower-case digits, the only ones that are allowed.
fn hexadecimal(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0, |number, &digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u128::from(value))
    })
}

/// `tracestate`, as the first hop may have split it.
pub fn state_of(headers: &HeaderMap) -> String {
    let values: Vec<_> = headers.get_all(TRACESTATE).iter().filter_map(|value| value.to_str().ok()).collect();
    values.join(",")
}

/// Which traces are sampled.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampler {
    /// Traces are sampled whose id's lower 64 bits are below it, as in OpenTelemetry's `TraceIdRatioBased`.
    bound: u128,
    /// Where there is a parent, it has decided.
    follows_parents: bool,
}

/// A sampled request's span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entered {
    pub span: SpanContext,
    pub parent: Option<SpanContext>,
}

impl Sampler {
    /// Samples a share of all traces, 0 to 1.
    pub fn new(share: f64, follows_parents: bool) -> Sampler {
        Sampler { bound: (share * (1_u128 << 64) as f64).round() as u128, follows_parents }
    }

    fn picks(self, trace_id: u128) -> bool {
        (trace_id & u128::from(u64::MAX)) < self.bound
    }

    /// Decides for a request that comes in: its span, or None where it is not sampled.
    ///
    /// Of what is not sampled the head says so, for all hops after this one.
    /// Without a parent and the right to begin a trace, nothing is decided.
    pub fn enter(self, headers: &mut HeaderMap, may_begin: bool) -> Option<Entered> {
        let parent = SpanContext::of(headers);
        if parent.is_none() {
            if !may_begin {
                return None;
            }
            // It belongs to the context that could not be read.
            headers.remove(TRACESTATE);
        }
        let known = parent.unwrap_or_else(SpanContext::root);
        let is_sampled = match parent {
            Some(parent) if self.follows_parents => parent.is_sampled(),
            _ => self.picks(known.trace_id),
        };
        if is_sampled {
            return Some(Entered { span: known.child().sampled(), parent });
        }
        if parent.is_none_or(SpanContext::is_sampled) {
            known.not_sampled().write(headers);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn head(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let pair = |&(name, value): &(&'static str, &str)| {
            (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
        };
        // Collecting keeps repeated names.
        pairs.iter().map(pair).fold(HeaderMap::new(), |mut map, (name, value)| {
            map.append(name, value);
            map
        })
    }

    fn read(text: &str) -> Option<SpanContext> {
        SpanContext::parse(text.as_bytes())
    }

    #[test]
    fn only_what_the_recommendation_allows_is_a_parent() {
        let known = read(SENT).unwrap();
        assert_eq!((known.trace_id, known.span_id), (0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c, 0xb7ad_6b71_6920_3331));
        assert!(known.is_sampled());
        for bad in [
            "",
            "00",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0g",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
            "00_0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01.more",
        ] {
            assert_eq!(read(bad), None, "{bad}");
        }
        // A later version, and flags that this one does not know.
        assert_eq!(read("cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-fd-more").unwrap().text(), SENT);
    }

    #[test]
    fn a_sampled_parent_gets_a_child_and_the_head_keeps_its_state() {
        let mut headers = head(&[("traceparent", SENT), ("tracestate", "a=1"), ("tracestate", "b=2")]);
        let entered = Sampler::new(0.0, true).enter(&mut headers, true).unwrap();
        assert_eq!(entered.parent, read(SENT));
        assert_eq!(entered.span.trace_id, entered.parent.unwrap().trace_id);
        assert_ne!(entered.span.span_id, entered.parent.unwrap().span_id);
        assert_eq!(state_of(&headers), "a=1,b=2");
    }

    #[test]
    fn what_is_not_sampled_says_so_to_the_next_hop() {
        let unsampled = SENT.replace("-01", "-00");
        let mut headers = head(&[("traceparent", &unsampled)]);
        assert_eq!(Sampler::new(1.0, true).enter(&mut headers, true), None);
        assert_eq!(headers[TRACEPARENT], *unsampled);

        // Nobody is followed: the parent's own decision must not hold further down.
        let mut headers = head(&[("traceparent", SENT)]);
        assert_eq!(Sampler::new(0.0, false).enter(&mut headers, true), None);
        assert_eq!(headers[TRACEPARENT], *unsampled);

        let mut headers = head(&[("tracestate", "a=1")]);
        assert_eq!(Sampler::new(0.0, true).enter(&mut headers, true), None);
        let made = SpanContext::of(&headers).unwrap();
        assert_eq!((made.flags, state_of(&headers)), (RANDOM, String::new()));
    }

    #[test]
    fn a_parent_that_cannot_be_read_begins_a_new_trace() {
        for pairs in [
            &[("traceparent", "nonsense"), ("tracestate", "a=1")][..],
            &[("traceparent", SENT), ("traceparent", SENT), ("tracestate", "a=1")],
        ] {
            let mut headers = head(pairs);
            let entered = Sampler::new(1.0, true).enter(&mut headers, true).unwrap();
            assert_eq!((entered.parent, state_of(&headers)), (None, String::new()));
            entered.span.write(&mut headers);
            assert_eq!(SpanContext::of(&headers), Some(entered.span));
            assert!(entered.span.is_sampled());
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(trace_id in 1_u128.., span_id in 1_u64.., flags in 0_u8..4) {
            let context = SpanContext { trace_id, span_id, flags };
            prop_assert_eq!(read(&context.text()), Some(context));
        }

        #[test]
        fn no_value_upsets_the_reader(value in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = SpanContext::parse(&value);
        }

        #[test]
        fn the_same_traces_are_sampled_everywhere(trace_id: u128, share in 0.0_f64..=1.0) {
            let lower = (trace_id & u128::from(u64::MAX)) as f64 / 2_f64.powi(64);
            // Where they are as good as equal, rounding decides.
            prop_assume!((lower - share).abs() > 1e-9);
            prop_assert_eq!(Sampler::new(share, true).picks(trace_id), lower < share);
        }
    }
}
