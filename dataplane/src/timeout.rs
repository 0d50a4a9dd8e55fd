//! The `grpc-timeout` header.

use std::time::Duration;

use http::HeaderValue;

/// Parses `1*8DIGIT unit`, the unit being one of `H M S m u n`.
pub fn parse(value: &[u8]) -> Option<Duration> {
    let (&unit, digits) = value.split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let amount = digits.iter().fold(0_u64, |sum, digit| sum * 10 + u64::from(digit - b'0'));
    Some(match unit {
        b'H' => Duration::from_secs(amount * 3600),
        b'M' => Duration::from_secs(amount * 60),
        b'S' => Duration::from_secs(amount),
        b'm' => Duration::from_millis(amount),
        b'u' => Duration::from_micros(amount),
        b'n' => Duration::from_nanos(amount),
        _ => return None,
    })
}

/// Encodes in the finest unit that fits eight digits, rounded down but never to zero.
pub fn encode(timeout: Duration) -> HeaderValue {
    const MOST: u128 = 99_999_999;
    let nanos = timeout.as_nanos().max(1);
    let units: [(u128, u8); 6] = [
        (1, b'n'),
        (1_000, b'u'),
        (1_000_000, b'm'),
        (1_000_000_000, b'S'),
        (60_000_000_000, b'M'),
        (3_600_000_000_000, b'H'),
    ];
    let (size, unit) = units.into_iter().find(|(size, _)| nanos / size <= MOST).unwrap_or(units[5]);
    // u64 formats much faster than u128, and the value fits by choice of the unit.
    let mut text = u64::try_from((nanos / size).min(MOST)).unwrap_or(u64::MAX).to_string().into_bytes();
    text.push(unit);
    HeaderValue::from_maybe_shared(bytes::Bytes::from(text)).expect("digits and a letter are a header value")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn refuses_what_the_grpc_specification_does_not_allow() {
        for bad in ["", "S", "1", "123456789S", "1x", "-1S", "1 S", "S1"] {
            assert_eq!(parse(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn knows_all_units() {
        assert_eq!(parse(b"2H"), Some(Duration::from_secs(7200)));
        assert_eq!(parse(b"2M"), Some(Duration::from_secs(120)));
        assert_eq!(parse(b"99999999n"), Some(Duration::from_nanos(99_999_999)));
    }

    proptest! {
        #[test]
        fn encoding_never_lengthens_and_loses_less_than_a_millionth(nanos in 1_u64..=u64::MAX) {
            let timeout = Duration::from_nanos(nanos);
            let back = parse(encode(timeout).as_bytes()).unwrap();
            prop_assert!(back <= timeout);
            prop_assert!((timeout - back).as_secs_f64() <= timeout.as_secs_f64() / 99_999.0);
        }
    }
}
