//! Decompression of messages that must be read here; all others pass as they are.

use std::io::Read;

use flate2::read::{MultiGzDecoder, ZlibDecoder};

use crate::grpc::{Code, Status};

/// Decompresses one message.
///
/// Fails with the status for the client where the encoding is unknown, the data damaged or the result larger than
/// `limit` bytes.
pub fn decompress(encoding: &str, bytes: &[u8], limit: usize) -> Result<Vec<u8>, Status> {
    let mut plain = Vec::new();
    let most = limit as u64 + 1;
    let read = match encoding {
        "gzip" => MultiGzDecoder::new(bytes).take(most).read_to_end(&mut plain),
        "deflate" => ZlibDecoder::new(bytes).take(most).read_to_end(&mut plain),
        other => {
            return Err(Status::new(
                Code::UNIMPLEMENTED,
                format!("the message cannot be read here with grpc-encoding {other:?}; use gzip, deflate or none"),
            ));
        }
    };
    match read {
        Err(error) => Err(Status::new(Code::INTERNAL, format!("a {encoding} message is damaged: {error}"))),
        Ok(_) if plain.len() > limit => Err(too_large(plain.len(), limit, "decompressed ")),
        Ok(_) => Ok(plain),
    }
}

/// The status for a message beyond the limit, in the words gRPC servers use.
pub fn too_large(size: usize, limit: usize, kind: &str) -> Status {
    Status::new(Code::RESOURCE_EXHAUSTED, format!("{kind}message larger than max ({size} vs. {limit})"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_bomb_is_refused_before_it_unfolds() {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(&vec![0; 1 << 20]).unwrap();
        let status = decompress("gzip", &encoder.finish().unwrap(), 1000).unwrap_err();
        assert_eq!(status.code, Code::RESOURCE_EXHAUSTED);
    }

    #[test]
    fn unknown_encodings_are_named() {
        assert!(decompress("snappy", b"", 1).unwrap_err().message.contains("\"snappy\""));
    }
}
