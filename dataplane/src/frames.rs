//! Length-prefixed gRPC messages in a stream of chunks, looked at without being assembled.

use bytes::{BufMut, Bytes, BytesMut};

/// Bytes before each message: a flag for compression and a length.
pub const PREFIX: usize = 5;

/// A message beyond the limit: its size in bytes.
#[derive(Debug, PartialEq, Eq)]
pub struct TooLarge(pub usize);

/// Follows the prefixes of the messages in one direction of a stream.
#[derive(Default, Debug)]
pub struct FrameScanner {
    prefix: [u8; PREFIX],
    have: usize,
    remaining: usize,
    message_bytes: u64,
}

impl FrameScanner {
    /// Looks at the next chunk.
    ///
    /// Fails as soon as a prefix announces more than `limit` bytes.
    pub fn feed(&mut self, mut chunk: &[u8], limit: usize) -> Result<(), TooLarge> {
        while !chunk.is_empty() {
            if self.remaining > 0 {
                let skip = self.remaining.min(chunk.len());
                self.remaining -= skip;
                chunk = &chunk[skip..];
                continue;
            }
            let take = (PREFIX - self.have).min(chunk.len());
            self.prefix[self.have..self.have + take].copy_from_slice(&chunk[..take]);
            self.have += take;
            chunk = &chunk[take..];
            if self.have == PREFIX {
                self.have = 0;
                self.remaining = message_length(&self.prefix);
                if self.remaining > limit {
                    return Err(TooLarge(self.remaining));
                }
                self.message_bytes += self.remaining as u64;
            }
        }
        Ok(())
    }

    /// Bytes of all messages announced so far, without their prefixes.
    pub fn message_bytes(&self) -> u64 {
        self.message_bytes
    }
}

/// The length in a whole prefix.
pub fn message_length(prefix: &[u8; PREFIX]) -> usize {
    u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize
}

/// A message with its prefix, not compressed.
pub fn framed(message: &[u8]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(PREFIX + message.len());
    bytes.put_u8(0);
    // Messages of Python are far below 4 GiB, which the format ends at.
    bytes.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    bytes.extend_from_slice(message);
    bytes.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn framed(sizes: &[usize]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for &size in sizes {
            bytes.push(0);
            bytes.extend(u32::try_from(size).unwrap().to_be_bytes());
            bytes.resize(bytes.len() + size, 7);
        }
        bytes
    }

    proptest! {
        #[test]
        fn cuts_do_not_matter(
            sizes in prop::collection::vec(0_usize..300, 0..8), cut in 1_usize..64, limit in 0_usize..300,
        ) {
            let mut scanner = FrameScanner::default();
            let result = framed(&sizes).chunks(cut).try_for_each(|chunk| scanner.feed(chunk, limit));
            match sizes.iter().find(|&&size| size > limit) {
                Some(&size) => prop_assert_eq!(result, Err(TooLarge(size))),
                None => {
                    prop_assert_eq!(result, Ok(()));
                    prop_assert_eq!(scanner.message_bytes(), sizes.iter().sum::<usize>() as u64);
                }
            }
        }
    }
}
