//! gRPC's own vocabulary: status codes, statuses and how they look on the wire.

use std::fmt::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use bytes::Bytes;
use h2::Reason;
use http::{HeaderMap, HeaderName, HeaderValue, Response, header};

pub const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
pub const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
pub const GRPC_DETAILS: HeaderName = HeaderName::from_static("grpc-status-details-bin");
pub const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
pub const GRPC_ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
pub const CONTENT_TYPE: HeaderValue = HeaderValue::from_static("application/grpc");

/// A gRPC status code; unknown numbers count as UNKNOWN, as gRPC clients see them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Code(u8);

impl Code {
    pub const OK: Code = Code(0);
    pub const CANCELLED: Code = Code(1);
    pub const UNKNOWN: Code = Code(2);
    pub const INVALID_ARGUMENT: Code = Code(3);
    pub const DEADLINE_EXCEEDED: Code = Code(4);
    pub const NOT_FOUND: Code = Code(5);
    pub const PERMISSION_DENIED: Code = Code(7);
    pub const RESOURCE_EXHAUSTED: Code = Code(8);
    pub const UNIMPLEMENTED: Code = Code(12);
    pub const INTERNAL: Code = Code(13);
    pub const UNAVAILABLE: Code = Code(14);
    pub const UNAUTHENTICATED: Code = Code(16);

    pub fn new(number: u32) -> Code {
        u8::try_from(number).ok().filter(|&n| n <= 16).map_or(Code::UNKNOWN, Code)
    }

    /// Reads `grpc-status`; absent or unreadable is UNKNOWN, as in gRPC.
    pub fn of(headers: &HeaderMap) -> Code {
        match headers.get(GRPC_STATUS).map(HeaderValue::as_bytes) {
            Some(b"0") => Code::OK,
            Some(text) => std::str::from_utf8(text).ok().and_then(|t| t.parse().ok()).map_or(Code::UNKNOWN, Code::new),
            None => Code::UNKNOWN,
        }
    }

    pub fn number(self) -> u8 {
        self.0
    }

    pub fn name(self) -> &'static str {
        const NAMES: [&str; 17] = [
            "OK",
            "CANCELLED",
            "UNKNOWN",
            "INVALID_ARGUMENT",
            "DEADLINE_EXCEEDED",
            "NOT_FOUND",
            "ALREADY_EXISTS",
            "PERMISSION_DENIED",
            "RESOURCE_EXHAUSTED",
            "FAILED_PRECONDITION",
            "ABORTED",
            "OUT_OF_RANGE",
            "UNIMPLEMENTED",
            "INTERNAL",
            "UNAVAILABLE",
            "DATA_LOSS",
            "UNAUTHENTICATED",
        ];
        NAMES[usize::from(self.0)]
    }

    /// The status that gRPC's HTTP/2 mapping gives a stream reset by the server.
    pub fn of_reset(reason: Reason) -> Code {
        match reason {
            Reason::REFUSED_STREAM => Code::UNAVAILABLE,
            Reason::CANCEL => Code::CANCELLED,
            Reason::ENHANCE_YOUR_CALM => Code::RESOURCE_EXHAUSTED,
            Reason::INADEQUATE_SECURITY => Code::PERMISSION_DENIED,
            _ => Code::INTERNAL,
        }
    }
}

/// A status that this process gives, in place of a server's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    pub code: Code,
    pub message: String,
    /// A serialized `google.rpc.Status`, or empty.
    pub details: Bytes,
    /// A header for the peer that forwarded the request; never reaches a client.
    pub control: Option<HeaderName>,
}

impl Status {
    pub fn new(code: Code, message: impl Into<String>) -> Status {
        Status { code, message: message.into(), details: Bytes::new(), control: None }
    }

    pub fn expired() -> Status {
        Status::new(Code::DEADLINE_EXCEEDED, "Deadline exceeded")
    }

    /// Writes the status as trailers.
    pub fn write(&self, headers: &mut HeaderMap) {
        headers.insert(GRPC_STATUS, HeaderValue::from(u16::from(self.code.number())));
        if !self.message.is_empty() {
            headers.insert(GRPC_MESSAGE, percent_encode(&self.message));
        }
        if !self.details.is_empty() {
            let text = STANDARD_NO_PAD.encode(&self.details);
            headers.insert(GRPC_DETAILS, HeaderValue::from_str(&text).expect("base64 is a header value"));
        }
        if let Some(name) = &self.control {
            headers.insert(name, HeaderValue::from_static("1"));
        }
    }

    pub fn trailers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        self.write(&mut headers);
        headers
    }

    /// The head of an answer with a message.
    pub fn head() -> Response<()> {
        let mut response = Response::new(());
        response.headers_mut().insert(header::CONTENT_TYPE, CONTENT_TYPE);
        response
    }

    /// The whole answer in one header block.
    pub fn trailers_only(&self) -> Response<()> {
        let mut response = Status::head();
        self.write(response.headers_mut());
        response
    }
}

/// The message of a status in received headers or trailers, decoded.
pub fn message_of(headers: &HeaderMap) -> String {
    headers.get(GRPC_MESSAGE).map_or_else(String::new, |value| percent_decode(value.as_bytes()))
}

/// Encodes as the gRPC specification says of `grpc-message`: printable ASCII but `%` stays.
fn percent_encode(text: &str) -> HeaderValue {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'%' | ..0x20 | 0x7f.. => write!(encoded, "%{byte:02X}").expect("a String takes any text"),
            _ => encoded.push(char::from(byte)),
        }
    }
    HeaderValue::from_str(&encoded).expect("printable ASCII is a header value")
}

/// Decodes; what is not a valid escape stays as it is, what is not UTF-8 is replaced.
fn percent_decode(text: &[u8]) -> String {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, tail @ ..] = rest {
        let escaped = match (first, tail) {
            (b'%', [high, low, ..]) => hex(*high).zip(hex(*low)).map(|(high, low)| high << 4 | low),
            _ => None,
        };
        decoded.push(escaped.unwrap_or(*first));
        rest = if escaped.is_some() { &rest[3..] } else { tail };
    }
    String::from_utf8(decoded).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bad_escapes_stay() {
        assert_eq!(percent_decode(b"100%"), "100%");
        assert_eq!(percent_decode(b"%zz%4"), "%zz%4");
        assert_eq!(percent_decode(b"%FF"), "\u{fffd}");
    }

    #[test]
    fn a_missing_or_odd_status_is_unknown() {
        let mut headers = HeaderMap::new();
        assert_eq!(Code::of(&headers), Code::UNKNOWN);
        headers.insert(GRPC_STATUS, HeaderValue::from_static("99"));
        assert_eq!(Code::of(&headers), Code::UNKNOWN);
        headers.insert(GRPC_STATUS, HeaderValue::from_static("14"));
        assert_eq!(Code::of(&headers), Code::UNAVAILABLE);
    }

    proptest! {
        #[test]
        fn any_message_survives(text in ".*") {
            let mut headers = HeaderMap::new();
            Status::new(Code::INTERNAL, text.clone()).write(&mut headers);
            prop_assert_eq!(message_of(&headers), text);
        }
    }
}
