//! Finds and replaces one string in a serialized protobuf message, by the numbers of the fields that lead to it.
//!
//! Every number but the last names a sub-message, the last a string. The first occurrence of each counts. Nothing
//! else of the message is looked at, let alone decoded.

use std::ops::Range;

/// Why a message cannot be followed along a path.
#[derive(Debug, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

/// Where the string of a path is in a message.
#[derive(Debug, PartialEq, Eq)]
pub enum Located {
    /// Its bytes, and where the lengths are that enclose it.
    At { value: Range<usize>, lengths: Vec<Length> },
    /// The message ends without it. `depth` numbers of the path were found; the rest belongs at `insert_at`.
    Absent { depth: usize, insert_at: usize, lengths: Vec<Length> },
    /// More bytes of the message are needed to tell.
    Incomplete,
}

/// A length prefix inside a message: its bytes and its value.
#[derive(Debug, PartialEq, Eq)]
pub struct Length {
    position: Range<usize>,
    value: usize,
}

/// Follows `path` through the first bytes of a message that has `total` bytes.
pub fn locate(path: &[u32], bytes: &[u8], total: usize) -> Result<Located, Malformed> {
    let mut cursor = Cursor { bytes, at: 0 };
    let mut end = total;
    let mut lengths = Vec::new();
    let mut depth = 0;
    loop {
        if cursor.at == end {
            return Ok(Located::Absent { depth, insert_at: end, lengths });
        }
        let Some(tag) = cursor.varint()? else { return Ok(Located::Incomplete) };
        let (field, wire_type) = (tag >> 3, tag & 7);
        if field == 0 {
            return Err(Malformed("a field has number 0"));
        }
        if path.get(depth).is_some_and(|&wanted| u64::from(wanted) == field) {
            if wire_type != 2 {
                return Err(Malformed("a field of the path is neither a string nor a message"));
            }
            let start = cursor.at;
            let Some(value) = cursor.varint()? else { return Ok(Located::Incomplete) };
            let inner = inner_range(cursor.at, value, end)?;
            lengths.push(Length { position: start..cursor.at, value: inner.len() });
            depth += 1;
            if depth == path.len() {
                let complete = inner.end <= bytes.len();
                return Ok(if complete { Located::At { value: inner, lengths } } else { Located::Incomplete });
            }
            end = inner.end;
            continue;
        }
        let skipped = match wire_type {
            0 => cursor.varint()?.map(|_| cursor.at),
            1 => Some(cursor.at.saturating_add(8)),
            2 => match cursor.varint()? {
                Some(value) => Some(inner_range(cursor.at, value, end)?.end),
                None => None,
            },
            5 => Some(cursor.at.saturating_add(4)),
            _ => return Err(Malformed("groups are not supported")),
        };
        let Some(next) = skipped else { return Ok(Located::Incomplete) };
        if next > end {
            return Err(Malformed("a field is longer than its message"));
        }
        cursor.at = next;
        if next > bytes.len() {
            return Ok(Located::Incomplete);
        }
    }
}

fn inner_range(start: usize, length: u64, end: usize) -> Result<Range<usize>, Malformed> {
    usize::try_from(length)
        .ok()
        .and_then(|length| start.checked_add(length))
        .filter(|&inner_end| inner_end <= end)
        .map(|inner_end| start..inner_end)
        .ok_or(Malformed("a field is longer than its message"))
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Cursor<'_> {
    /// None where the bytes end within it.
    fn varint(&mut self) -> Result<Option<u64>, Malformed> {
        let mut value = 0_u64;
        for shift in (0..70).step_by(7) {
            let Some(&byte) = self.bytes.get(self.at) else { return Ok(None) };
            self.at += 1;
            value |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
            if byte & 0x80 == 0 {
                return Ok(Some(value));
            }
        }
        Err(Malformed("a varint has more than ten bytes"))
    }
}

/// One field of a message: its number and wire type, and the bytes of its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field<'a> {
    pub tag: u64,
    pub value: &'a [u8],
}

/// The fields of a whole message. Ends with the first error.
pub fn fields(bytes: &[u8]) -> impl Iterator<Item = Result<Field<'_>, Malformed>> {
    let mut cursor = Cursor { bytes, at: 0 };
    std::iter::from_fn(move || (cursor.at < bytes.len()).then(|| cursor.field()))
}

impl<'a> Cursor<'a> {
    fn field(&mut self) -> Result<Field<'a>, Malformed> {
        let cut = Malformed("the message ends within a field");
        let Some(tag) = self.varint()? else { return Err(cut) };
        let start = self.at;
        let value = match tag & 7 {
            0 => self.varint()?.map(|_| start..self.at),
            1 => Some(start..start + 8),
            2 => match self.varint()? {
                Some(length) => Some(inner_range(self.at, length, self.bytes.len())?),
                None => None,
            },
            5 => Some(start..start + 4),
            _ => return Err(Malformed("groups are not supported")),
        };
        let Some(value) = value.filter(|value| value.end <= self.bytes.len()) else { return Err(cut) };
        self.at = value.end;
        Ok(Field { tag, value: &self.bytes[value] })
    }
}

/// The first bytes of a message, rewritten; those from `consumed` on stay as they are.
#[derive(Debug, PartialEq, Eq)]
pub struct Rewritten {
    pub bytes: Vec<u8>,
    pub consumed: usize,
    /// Length of the whole new message.
    pub total: usize,
}

/// Puts `id` where `located` says, creating missing sub-messages and correcting the lengths around it.
///
/// None where nothing is to be changed, or cannot be yet.
pub fn replace(path: &[u32], located: &Located, bytes: &[u8], total: usize, id: &str) -> Option<Rewritten> {
    let (cut, new, lengths) = match located {
        Located::Incomplete => return None,
        Located::At { value, lengths } => {
            if &bytes[value.clone()] == id.as_bytes() {
                return None;
            }
            let (own, outer) = lengths.split_last()?;
            let mut new = Vec::with_capacity(id.len() + 10);
            push_varint(&mut new, id.len() as u64);
            new.extend_from_slice(id.as_bytes());
            (own.position.start..value.end, new, outer)
        }
        Located::Absent { depth, insert_at, lengths } => {
            (*insert_at..*insert_at, nested(&path[*depth..], id), lengths.as_slice())
        }
    };
    let mut grown = new.len() as isize - cut.len() as isize;
    // Innermost first, since a length's own size may change with its value.
    let mut prefixes: Vec<(&Range<usize>, Vec<u8>)> = Vec::with_capacity(lengths.len());
    for length in lengths.iter().rev() {
        let mut prefix = Vec::with_capacity(10);
        push_varint(&mut prefix, length.value.checked_add_signed(grown)? as u64);
        grown += prefix.len() as isize - length.position.len() as isize;
        prefixes.push((&length.position, prefix));
    }
    let mut rewritten = Vec::with_capacity(cut.end.checked_add_signed(grown)?);
    let mut from = 0;
    for (position, prefix) in prefixes.iter().rev() {
        rewritten.extend_from_slice(&bytes[from..position.start]);
        rewritten.extend_from_slice(prefix);
        from = position.end;
    }
    rewritten.extend_from_slice(&bytes[from..cut.start]);
    rewritten.extend_from_slice(&new);
    Some(Rewritten { bytes: rewritten, consumed: cut.end, total: total.checked_add_signed(grown)? })
}

/// The string alone, wrapped in the sub-messages that `path` names.
fn nested(path: &[u32], id: &str) -> Vec<u8> {
    let mut bytes = id.as_bytes().to_vec();
    for &field in path.iter().rev() {
        let mut outer = Vec::with_capacity(bytes.len() + 12);
        push_varint(&mut outer, u64::from(field) << 3 | 2);
        push_varint(&mut outer, bytes.len() as u64);
        outer.extend_from_slice(&bytes);
        bytes = outer;
    }
    bytes
}

fn push_varint(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A field as a test sees it: a number and a varint, a string or a message.
    #[derive(Clone, Debug, PartialEq)]
    enum Field {
        Number(u32, u64),
        Fixed(u32, u64),
        Text(u32, String),
        Message(u32, Vec<Field>),
    }

    fn encode(fields: &[Field]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for field in fields {
            match field {
                Field::Number(number, value) => {
                    push_varint(&mut bytes, u64::from(*number) << 3);
                    push_varint(&mut bytes, *value);
                }
                Field::Fixed(number, value) => {
                    push_varint(&mut bytes, u64::from(*number) << 3 | 1);
                    bytes.extend(value.to_le_bytes());
                }
                Field::Text(number, text) => {
                    push_varint(&mut bytes, u64::from(*number) << 3 | 2);
                    push_varint(&mut bytes, text.len() as u64);
                    bytes.extend(text.as_bytes());
                }
                Field::Message(number, inner) => {
                    let inner = encode(inner);
                    push_varint(&mut bytes, u64::from(*number) << 3 | 2);
                    push_varint(&mut bytes, inner.len() as u64);
                    bytes.extend(inner);
                }
            }
        }
        bytes
    }

    /// What replacing should do, on the decoded message.
    fn expected(fields: &[Field], path: &[u32], id: &str) -> Vec<Field> {
        let mut fields = fields.to_vec();
        let (first, rest) = path.split_first().unwrap();
        let found = fields
            .iter_mut()
            .find(|field| matches!(field, Field::Text(number, _) | Field::Message(number, _) if number == first));
        match (found, rest.is_empty()) {
            (Some(Field::Text(_, text)), true) => *text = id.to_owned(),
            (Some(Field::Message(_, inner)), false) => *inner = expected(inner, rest, id),
            (None, true) => fields.push(Field::Text(*first, id.to_owned())),
            (None, false) => fields.push(Field::Message(*first, expected(&[], rest, id))),
            (Some(other), _) => unreachable!("{other:?} does not fit the path"),
        }
        fields
    }

    fn noise() -> impl Strategy<Value = Field> {
        // Numbers from 10 on never meet the path, which uses 1 to 3.
        let leaf = prop_oneof![
            (10_u32..3000, any::<u64>()).prop_map(|(n, v)| Field::Number(n, v)),
            (10_u32..3000, any::<u64>()).prop_map(|(n, v)| Field::Fixed(n, v)),
            (10_u32..3000, ".{0,40}").prop_map(|(n, t)| Field::Text(n, t)),
        ];
        leaf.prop_recursive(2, 12, 4, |inner| {
            (10_u32..3000, prop::collection::vec(inner, 0..4)).prop_map(|(n, f)| Field::Message(n, f))
        })
    }

    /// A message in which the path 1, 2, 3 leads to a string, or ends early.
    fn along_the_path() -> impl Strategy<Value = Vec<Field>> {
        let around = || prop::collection::vec(noise(), 0..4);
        (around(), around(), around(), prop::option::of(".{0,200}"), 0..4_usize, around()).prop_map(
            |(mut outer, mut middle, mut inner, text, depth, tail)| {
                if depth == 3 {
                    inner.extend(text.map(|text| Field::Text(3, text)));
                }
                if depth >= 2 {
                    middle.push(Field::Message(2, inner));
                }
                if depth >= 1 {
                    outer.push(Field::Message(1, middle));
                }
                outer.extend(tail);
                outer
            },
        )
    }

    proptest! {
        #[test]
        fn replaces_exactly_the_string(fields in along_the_path(), id in ".{1,200}", seen in 0.0_f64..=1.0) {
            let path = [1, 2, 3];
            let bytes = encode(&fields);
            let wanted = encode(&expected(&fields, &path, &id));
            // With part of the message it either waits or does the same.
            for length in [(bytes.len() as f64 * seen) as usize, bytes.len()] {
                let located = locate(&path, &bytes[..length], bytes.len()).unwrap();
                prop_assert!(length < bytes.len() || located != Located::Incomplete);
                if located == Located::Incomplete {
                    continue;
                }
                let result = match replace(&path, &located, &bytes[..length], bytes.len(), &id) {
                    Some(new) => {
                        prop_assert!(new.consumed <= length);
                        prop_assert_eq!(new.total, wanted.len());
                        [&new.bytes[..], &bytes[new.consumed..]].concat()
                    }
                    None => bytes.clone(),
                };
                prop_assert_eq!(&result, &wanted);
            }
        }

        #[test]
        fn finds_what_was_written(fields in along_the_path(), id in ".{1,200}") {
            let path = [1, 2, 3];
            let bytes = encode(&expected(&fields, &path, &id));
            match locate(&path, &bytes, bytes.len()).unwrap() {
                Located::At { value, .. } => prop_assert_eq!(&bytes[value], id.as_bytes()),
                other => prop_assert!(false, "{:?}", other),
            }
        }

        #[test]
        fn never_panics_on_noise(bytes in prop::collection::vec(any::<u8>(), 0..200), more in 0_usize..50) {
            let total = bytes.len() + more;
            if let Ok(located) = locate(&[1, 2], &bytes, total) {
                if matches!(&located, Located::Absent { insert_at, .. } if *insert_at > bytes.len()) {
                    return Err(TestCaseError::fail("absence was decided too early"));
                }
                replace(&[1, 2], &located, &bytes, total, "id");
            }
        }
    }

    #[test]
    fn the_first_occurrence_counts() {
        let bytes = encode(&[Field::Text(1, "a".into()), Field::Text(1, "b".into())]);
        let Ok(Located::At { value, .. }) = locate(&[1], &bytes, bytes.len()) else { panic!() };
        assert_eq!(&bytes[value], b"a");
    }

    #[test]
    fn groups_and_numbers_at_the_path_are_errors() {
        assert!(locate(&[1], &[0x0b], 1).is_err());
        assert!(locate(&[1], &[0x08, 0x01], 2).is_err());
        assert!(locate(&[2], &[0x0b, 0x0c], 2).is_err());
    }
}
