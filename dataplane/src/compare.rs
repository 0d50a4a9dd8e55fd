//! Whether two models gave the same answer.

use crate::fieldpath::{Malformed, fields};

/// Compares two serialized protobuf messages, field by field as they come.
///
/// Where each has its own model's id, as answers do that name their model, they agree. What is no protobuf must be equal.
pub fn agree(one: (&[u8], &str), other: (&[u8], &str)) -> bool {
    let ((one, one_id), (other, other_id)) = (one, other);
    one == other || differ_in_ids_alone((one, one_id), (other, other_id)).unwrap_or(false)
}

fn differ_in_ids_alone(one: (&[u8], &str), other: (&[u8], &str)) -> Result<bool, Malformed> {
    let (mut left, mut right) = (fields(one.0), fields(other.0));
    loop {
        let (first, second) = (left.next().transpose()?, right.next().transpose()?);
        let (Some(first), Some(second)) = (first, second) else { return Ok(first == second) };
        let both_ids = first.value == one.1.as_bytes() && second.value == other.1.as_bytes();
        if first.tag != second.tag || (first.value != second.value && !both_ids) {
            return Ok(false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(field: u8, value: &str) -> Vec<u8> {
        [&[field << 3 | 2, value.len() as u8], value.as_bytes()].concat()
    }

    #[test]
    fn the_models_own_ids_agree_and_nothing_else() {
        let answer = |id: &str, value: &str| [text(1, id), vec![0x18, 7], text(5, value)].concat();
        let same = agree((&answer("blue", "x"), "blue"), (&answer("green", "x"), "green"));
        assert!(same);
        assert!(!agree((&answer("blue", "x"), "blue"), (&answer("green", "y"), "green")));
        assert!(!agree((&answer("blue", "x"), "blue"), (&answer("blue2", "x"), "green")));
        assert!(!agree((&answer("blue", "x"), "blue"), (&text(1, "green"), "green")));
        assert!(!agree((b"\x0a\x04blue", "blue"), (b"\x12\x05green", "green")));
    }

    #[test]
    fn what_is_no_protobuf_must_be_equal() {
        assert!(agree((b"\xff\xff", "a"), (b"\xff\xff", "b")));
        assert!(!agree((b"\xff\xff", "a"), (b"\xff\xfe", "b")));
        assert!(!agree((b"", "a"), (b"\x0a\x01b", "b")));
    }

    proptest! {
        #[test]
        fn any_bytes_agree_with_themselves_alone(one in any::<Vec<u8>>(), other in any::<Vec<u8>>()) {
            prop_assert!(agree((&one, "blue"), (&one, "green")));
            prop_assert_eq!(agree((&one, "blue"), (&other, "green")), agree((&other, "green"), (&one, "blue")));
        }
    }
}
