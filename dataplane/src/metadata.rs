//! Request metadata: the mesh's own headers, model ids, and what the next hop gets to see.

use base64::Engine;
use base64::alphabet;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD_NO_PAD};
use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::grpc::{Code, GRPC_ENCODING, Status};

pub const MODEL_ID: HeaderName = HeaderName::from_static("mm-model-id");
pub const MODEL_ID_BIN: HeaderName = HeaderName::from_static("mm-model-id-bin");
pub const VMODEL_ID: HeaderName = HeaderName::from_static("mm-vmodel-id");
pub const VMODEL_ID_BIN: HeaderName = HeaderName::from_static("mm-vmodel-id-bin");
pub const LEGACY_MODEL_ID: HeaderName = HeaderName::from_static("tas-model-id");
pub const BALANCED: HeaderName = HeaderName::from_static("mm-balanced");
pub const HOP: HeaderName = HeaderName::from_static("mm-hop");
pub const FROM_PEER: HeaderName = HeaderName::from_static("mm-from-peer");
/// A peer's answer: it has no copy of the model, and processed nothing.
pub const NOT_HERE: HeaderName = HeaderName::from_static("mm-not-here");
/// A peer's answer: its copy's queue is full, and it processed nothing.
pub const OVERLOAD: HeaderName = HeaderName::from_static("mm-overload");

const ACCEPT_ENCODING: &str = "grpc-accept-encoding";

/// gRPC allows binary metadata with padding and without.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// What a request is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    pub id: Box<str>,
    pub is_vmodel: bool,
}

/// Reads the id headers: plain before binary, and the legacy one only without any of them.
///
/// The messages are those of KServe ModelMesh.
pub fn subject_of(headers: &HeaderMap) -> Result<Subject, Status> {
    let model = id_of(headers, &MODEL_ID, &MODEL_ID_BIN, "model-id")?;
    let vmodel = id_of(headers, &VMODEL_ID, &VMODEL_ID_BIN, "vmodel-id")?;
    match (model, vmodel) {
        (Some(_), Some(_)) => Err(invalid("must include only one of model id and vmodel id")),
        (Some(id), None) => Ok(Subject { id, is_vmodel: false }),
        (None, Some(id)) => Ok(Subject { id, is_vmodel: true }),
        (None, None) => match plain_id(headers, &LEGACY_MODEL_ID, "model-id")? {
            Some(id) => Ok(Subject { id, is_vmodel: false }),
            None => Err(invalid("must include mm-model-id header")),
        },
    }
}

/// The ids a peer has resolved: of the model, and of the vmodel it came by.
pub fn resolved_of(headers: &HeaderMap) -> Result<(Box<str>, Option<Box<str>>), Status> {
    let model = binary_id(headers, &MODEL_ID_BIN, "model-id")?;
    let vmodel = binary_id(headers, &VMODEL_ID_BIN, "vmodel-id")?;
    Ok((model.ok_or_else(|| invalid("must include mm-model-id-bin header"))?, vmodel))
}

fn id_of(headers: &HeaderMap, plain: &HeaderName, binary: &HeaderName, what: &str) -> Result<Option<Box<str>>, Status> {
    match plain_id(headers, plain, what)? {
        None => binary_id(headers, binary, what),
        found => Ok(found),
    }
}

fn plain_id(headers: &HeaderMap, name: &HeaderName, what: &str) -> Result<Option<Box<str>>, Status> {
    let Some(value) = only_value(headers, name)? else { return Ok(None) };
    let text = value.to_str().map_err(|_| {
        invalid(format!("provided {what} header must be visible ASCII; use {name}-bin for other characters"))
    })?;
    non_empty(text, what).map(Some)
}

fn binary_id(headers: &HeaderMap, name: &HeaderName, what: &str) -> Result<Option<Box<str>>, Status> {
    let Some(value) = only_value(headers, name)? else { return Ok(None) };
    // gRPC may join the values of one name by commas, which base64 never contains.
    if value.as_bytes().contains(&b',') {
        return Err(several_models());
    }
    let bytes = BASE64
        .decode(value.as_bytes())
        .map_err(|error| invalid(format!("provided {what} header is not base64: {error}")))?;
    let text = String::from_utf8(bytes).map_err(|_| invalid(format!("provided {what} header must be UTF-8")))?;
    non_empty(&text, what).map(Some)
}

fn only_value<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a HeaderValue>, Status> {
    let mut values = headers.get_all(name).iter();
    let first = values.next();
    if values.next().is_some() { Err(several_models()) } else { Ok(first) }
}

/// The id, or the refusal of an empty one.
pub fn non_empty(id: &str, what: &str) -> Result<Box<str>, Status> {
    if id.is_empty() { Err(invalid(format!("provided {what} header must be non-empty"))) } else { Ok(id.into()) }
}

fn invalid(message: impl Into<String>) -> Status {
    Status::new(Code::INVALID_ARGUMENT, message)
}

fn several_models() -> Status {
    Status::new(Code::UNIMPLEMENTED, "requests for several models at once are not supported yet; send one model id")
}

/// `mm-balanced: true`.
pub fn is_balanced(headers: &HeaderMap) -> bool {
    headers.get(BALANCED).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"true"))
}

/// How often the request was forwarded before.
pub fn hops_of(headers: &HeaderMap) -> u32 {
    headers.get(HOP).and_then(|value| value.to_str().ok()).and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// The size of a header block as HTTP/2 counts it.
pub fn size_of(headers: &HeaderMap, path: &str) -> usize {
    let fields: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum();
    // The pseudo-headers: method, scheme, path and authority.
    fields + path.len() + 160
}

/// What the runtime gets: the client's metadata but `user-agent`, `tas-model-id`, `grpc-*` and `mm-*`, and the id of
/// the model. What gRPC itself needs to read the messages stays.
pub fn for_runtime(headers: &HeaderMap, model_id: &str) -> HeaderMap {
    let mut out = HeaderMap::with_capacity(headers.len() + 2);
    for (name, value) in headers {
        let text = name.as_str();
        let dropped = text.starts_with("mm-")
            || (text.starts_with("grpc-") && name != GRPC_ENCODING && text != ACCEPT_ENCODING)
            || name == header::USER_AGENT
            || name == header::CONTENT_LENGTH
            || name == LEGACY_MODEL_ID;
        if !dropped {
            out.append(name, value.clone());
        }
    }
    out.append(MODEL_ID_BIN, binary(model_id));
    if is_visible(model_id) {
        if let Ok(value) = HeaderValue::from_str(model_id) {
            out.append(MODEL_ID, value);
        }
    }
    out
}

/// What a peer gets: everything, with the ids resolved.
pub fn for_peer(headers: &HeaderMap, model_id: &str, vmodel_id: Option<&str>, hops: u32) -> HeaderMap {
    let mut out = without_ours(headers, true);
    out.append(MODEL_ID_BIN, binary(model_id));
    if let Some(vmodel_id) = vmodel_id {
        out.append(VMODEL_ID_BIN, binary(vmodel_id));
    }
    out.append(FROM_PEER, HeaderValue::from_static("1"));
    out.append(HOP, HeaderValue::from(hops));
    out
}

/// What the control server gets: everything but what only the mesh may say.
pub fn for_control(headers: &HeaderMap) -> HeaderMap {
    without_ours(headers, false)
}

fn without_ours(headers: &HeaderMap, and_ids: bool) -> HeaderMap {
    let mut out = HeaderMap::with_capacity(headers.len() + 4);
    for (name, value) in headers {
        let ours = name == HOP
            || name == FROM_PEER
            || name == crate::grpc::GRPC_TIMEOUT
            || (and_ids
                && (name == MODEL_ID
                    || name == MODEL_ID_BIN
                    || name == VMODEL_ID
                    || name == VMODEL_ID_BIN
                    || name == LEGACY_MODEL_ID));
        if !ours {
            out.append(name, value.clone());
        }
    }
    out
}

/// Takes out of an answer what only the mesh may say.
pub fn strip_ours(headers: &mut HeaderMap) {
    if headers.keys().any(|name| name.as_str().starts_with("mm-")) {
        let ours: Vec<HeaderName> = headers.keys().filter(|name| name.as_str().starts_with("mm-")).cloned().collect();
        for name in ours {
            headers.remove(name);
        }
    }
}

fn binary(text: &str) -> HeaderValue {
    HeaderValue::from_maybe_shared(bytes::Bytes::from(STANDARD_NO_PAD.encode(text))).expect("base64 is a header value")
}

/// Visible ASCII, the space included, as gRPC allows in plain metadata.
fn is_visible(text: &str) -> bool {
    text.bytes().all(|byte| (0x20..=0x7e).contains(&byte)) && text.trim_matches(' ').len() == text.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&str, &str)| {
            (HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap())
        };
        HeaderMap::from_iter(pairs.iter().map(pair))
    }

    #[test]
    fn ids_in_all_their_headers() {
        let id = |pairs: &[(&str, &str)]| {
            subject_of(&headers(pairs)).map(|subject| (subject.id.to_string(), subject.is_vmodel))
        };
        assert_eq!(id(&[("mm-model-id", "a")]), Ok(("a".into(), false)));
        assert_eq!(id(&[("mm-vmodel-id", "a")]), Ok(("a".into(), true)));
        assert_eq!(id(&[("mm-model-id-bin", "w6k=")]), Ok(("é".into(), false)));
        assert_eq!(id(&[("mm-model-id-bin", "w6k")]), Ok(("é".into(), false)));
        assert_eq!(id(&[("tas-model-id", "a")]), Ok(("a".into(), false)));
        assert_eq!(id(&[("tas-model-id", "a"), ("mm-model-id", "b")]), Ok(("b".into(), false)));
        assert_eq!(id(&[("mm-model-id", "b"), ("mm-model-id-bin", "w6k")]), Ok(("b".into(), false)));
    }

    #[test]
    fn bad_ids_are_refused_in_the_known_words() {
        let message = |pairs: &[(&str, &str)]| subject_of(&headers(pairs)).unwrap_err();
        assert_eq!(message(&[]).message, "must include mm-model-id header");
        assert_eq!(
            message(&[("mm-model-id", "a"), ("mm-vmodel-id-bin", "w6k")]).message,
            "must include only one of model id and vmodel id"
        );
        assert_eq!(message(&[("mm-model-id", "")]).message, "provided model-id header must be non-empty");
        assert_eq!(message(&[("mm-vmodel-id-bin", "")]).message, "provided vmodel-id header must be non-empty");
        assert_eq!(message(&[("mm-model-id", "a"), ("mm-model-id", "b")]).code, Code::UNIMPLEMENTED);
        assert_eq!(message(&[("mm-model-id-bin", "w6k,w6k")]).code, Code::UNIMPLEMENTED);
        assert_eq!(message(&[("mm-model-id-bin", "/w")]).code, Code::INVALID_ARGUMENT);
    }

    #[test]
    fn the_runtime_gets_no_plain_header_for_an_id_that_is_not_ascii() {
        let out = for_runtime(&HeaderMap::new(), "modèle");
        assert_eq!(out.get(MODEL_ID), None);
        assert_eq!(subject_of(&out).unwrap().id.as_ref(), "modèle");
    }

    proptest! {
        #[test]
        fn only_exact_names_and_prefixes_are_dropped(name in "[a-z][a-z0-9-]{0,14}", id in "[!-~]{1,20}") {
            let map = headers(&[(&name, "value")]);
            let out = for_runtime(&map, &id);
            let dropped = name == "user-agent" || name == "content-length" || name == "tas-model-id" || name.starts_with("mm-")
                || (name.starts_with("grpc-") && name != "grpc-encoding" && name != "grpc-accept-encoding");
            prop_assert_eq!(out.contains_key(name.as_str()), !dropped || name == "mm-model-id" || name == "mm-model-id-bin");
            prop_assert_eq!(&out[MODEL_ID], &id);
        }

        #[test]
        fn a_peer_reads_the_ids_that_were_sent(id in ".{1,40}", vmodel in prop::option::of(".{1,40}")) {
            let out = for_peer(&headers(&[("mm-model-id", "other"), ("x", "y")]), &id, vmodel.as_deref(), 2);
            let (model, alias) = resolved_of(&out).unwrap();
            prop_assert_eq!(model.as_ref(), id.as_str());
            prop_assert_eq!(alias.as_deref(), vmodel.as_deref());
            prop_assert_eq!(hops_of(&out), 2);
            prop_assert_eq!(&out["x"], "y");
        }
    }
}
