//! The little of protobuf and gRPC framing that the programs speak.

use bytes::{BufMut, Bytes, BytesMut};

/// Length of the prefix of a gRPC message: a flag byte and four bytes of length.
pub const FRAME_HEADER: usize = 5;

/// A protobuf message under construction.
#[derive(Default)]
pub struct Message(Vec<u8>);

impl Message {
    /// Adds a string; an empty one is left out, as proto3 does.
    pub fn text(mut self, field: u32, value: &str) -> Self {
        if !value.is_empty() {
            self.delimited(field, value.as_bytes());
        }
        self
    }

    /// Adds an integer or boolean; zero is left out, as proto3 does.
    pub fn number(mut self, field: u32, value: u64) -> Self {
        if value != 0 {
            self.varint(u64::from(field) << 3);
            self.varint(value);
        }
        self
    }

    pub fn message(mut self, field: u32, value: &Message) -> Self {
        self.delimited(field, &value.0);
        self
    }

    /// The message as gRPC puts it into a stream.
    pub fn framed(&self) -> Bytes {
        framed(&self.0)
    }

    fn delimited(&mut self, field: u32, value: &[u8]) {
        self.varint(u64::from(field) << 3 | 2);
        self.varint(value.len() as u64);
        self.0.extend_from_slice(value);
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }
}

pub fn framed(message: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(FRAME_HEADER + message.len());
    frame.put_u8(0);
    frame.put_u32(message.len() as u32);
    frame.put_slice(message);
    frame.freeze()
}

/// The string in field 1 of a framed message: where the SPI and the management API have the model's id.
pub fn first_text(frame: &[u8]) -> Option<&str> {
    let mut rest = frame.get(FRAME_HEADER..)?;
    while !rest.is_empty() {
        let tag = varint(&mut rest)?;
        match tag & 7 {
            0 => {
                varint(&mut rest)?;
            }
            2 => {
                let length = usize::try_from(varint(&mut rest)?).ok()?;
                let (value, after) = rest.split_at_checked(length)?;
                if tag >> 3 == 1 {
                    return std::str::from_utf8(value).ok();
                }
                rest = after;
            }
            _ => return None,
        }
    }
    Some("")
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, after) = rest.split_first()?;
        *rest = after;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_back_the_model_id_it_wrote() {
        let id = "m".repeat(300);
        let info = Message::default().text(1, "type");
        let request = Message::default().number(3, 1).message(2, &info).text(1, &id);
        assert_eq!(first_text(&request.framed()), Some(id.as_str()));
    }

    #[test]
    fn absent_id_is_empty_and_a_cut_message_is_refused() {
        assert_eq!(first_text(&Message::default().number(3, 300).framed()), Some(""));
        assert_eq!(first_text(&framed(&[0x0a, 9, b'x'])), None);
    }
}
