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
pub const REQUIRED: HeaderName = HeaderName::from_static("mm-required");
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

/// The ids in one header. A header that is repeated is a request for several models.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ids {
    One(Box<str>),
    Several(Vec<Box<str>>),
}

/// Reads the id headers: plain before binary, and the legacy one only without any of them. True where the ids are those
/// of vmodels.
///
/// The messages are those of KServe ModelMesh.
pub fn ids_of(headers: &HeaderMap) -> Result<(Ids, bool), Status> {
    let models = either_ids(headers, &MODEL_ID, &MODEL_ID_BIN, "model-id")?;
    let vmodels = either_ids(headers, &VMODEL_ID, &VMODEL_ID_BIN, "vmodel-id")?;
    match (models, vmodels) {
        (Some(_), Some(_)) => Err(invalid("must include only one of model id and vmodel id")),
        (Some(ids), None) => Ok((ids, false)),
        (None, Some(ids)) => Ok((ids, true)),
        (None, None) => match plain_ids(headers, &LEGACY_MODEL_ID, "model-id")? {
            Some(ids) => Ok((ids, false)),
            None => Err(invalid("must include mm-model-id header")),
        },
    }
}

/// The ids a peer has resolved: of the model, and of the vmodel it came by.
pub fn resolved_of(headers: &HeaderMap) -> Result<(Box<str>, Option<Box<str>>), Status> {
    let one = |ids: Option<Ids>| match ids {
        Some(Ids::Several(_)) => Err(invalid("a request that an instance forwards names one model")),
        Some(Ids::One(id)) => Ok(Some(id)),
        None => Ok(None),
    };
    let model = one(binary_ids(headers, &MODEL_ID_BIN, "model-id")?)?;
    let vmodel = one(binary_ids(headers, &VMODEL_ID_BIN, "vmodel-id")?)?;
    Ok((model.ok_or_else(|| invalid("must include mm-model-id-bin header"))?, vmodel))
}

fn either_ids(headers: &HeaderMap, plain: &HeaderName, binary: &HeaderName, what: &str) -> Result<Option<Ids>, Status> {
    match plain_ids(headers, plain, what)? {
        None => binary_ids(headers, binary, what),
        found => Ok(found),
    }
}

fn plain_ids(headers: &HeaderMap, name: &HeaderName, what: &str) -> Result<Option<Ids>, Status> {
    let id = |value: &HeaderValue| {
        let text = value.to_str().map_err(|_| {
            invalid(format!("provided {what} header must be visible ASCII; use {name}-bin for other characters"))
        })?;
        non_empty(text, what)
    };
    if has_no_repetition(headers) {
        return headers.get(name).map(|value| id(value).map(Ids::One)).transpose();
    }
    collect(headers.get_all(name).iter().map(id))
}

fn binary_ids(headers: &HeaderMap, name: &HeaderName, what: &str) -> Result<Option<Ids>, Status> {
    let id = |value: &[u8]| {
        let bytes = BASE64
            .decode(value.trim_ascii())
            .map_err(|error| invalid(format!("provided {what} header is not base64: {error}")))?;
        let text = String::from_utf8(bytes).map_err(|_| invalid(format!("provided {what} header must be UTF-8")))?;
        non_empty(&text, what)
    };
    if has_no_repetition(headers) && headers.get(name).is_none() {
        return Ok(None);
    }
    // gRPC may join the values of one name by commas, which base64 never contains.
    let values = headers.get_all(name).iter().flat_map(|value| value.as_bytes().split(|&byte| byte == b','));
    collect(values.map(id))
}

/// The value of a header as text; of a binary one what its bytes say in UTF-8.
pub fn text_of(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    let value = headers.get(name)?.as_bytes();
    if !name.as_str().ends_with("-bin") {
        return Some(String::from_utf8_lossy(value).into_owned());
    }
    let bytes = BASE64.decode(value.trim_ascii()).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// No header is there more than once, as in nearly all requests: then looking for one takes half as long.
fn has_no_repetition(headers: &HeaderMap) -> bool {
    headers.len() == headers.keys_len()
}

fn collect(mut ids: impl Iterator<Item = Result<Box<str>, Status>>) -> Result<Option<Ids>, Status> {
    let Some(first) = ids.next().transpose()? else { return Ok(None) };
    let Some(second) = ids.next().transpose()? else { return Ok(Some(Ids::One(first))) };
    let mut all = vec![first, second];
    for id in ids {
        all.push(id?);
    }
    Ok(Some(Ids::Several(all)))
}

/// `mm-required: all`: a request for several models fails where one of them is not there.
pub fn are_all_required(headers: &HeaderMap) -> bool {
    headers.get(REQUIRED).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"all"))
}

/// The id, or the refusal of an empty one.
pub fn non_empty(id: &str, what: &str) -> Result<Box<str>, Status> {
    if id.is_empty() { Err(invalid(format!("provided {what} header must be non-empty"))) } else { Ok(id.into()) }
}

fn invalid(message: impl Into<String>) -> Status {
    Status::new(Code::INVALID_ARGUMENT, message)
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

/// The id of a model as the values of headers.
pub struct IdHeaders {
    binary: HeaderValue,
    /// None where the id is not visible ASCII.
    plain: Option<HeaderValue>,
}

impl IdHeaders {
    pub fn new(model_id: &str) -> IdHeaders {
        let plain = is_visible(model_id).then(|| HeaderValue::from_str(model_id).ok()).flatten();
        IdHeaders { binary: binary(model_id), plain }
    }
}

/// What the runtime gets: the client's metadata but `user-agent`, `tas-model-id`, `grpc-*` and `mm-*`, and the id of
/// the model. What gRPC itself needs to read the messages stays.
pub fn for_runtime(headers: &HeaderMap, id: &IdHeaders) -> HeaderMap {
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
    out.append(MODEL_ID_BIN, id.binary.clone());
    if let Some(plain) = &id.plain {
        out.append(MODEL_ID, plain.clone());
    }
    out
}

/// What a peer gets: everything, with the ids resolved.
pub fn for_peer(headers: &HeaderMap, id: &IdHeaders, vmodel_id: Option<&str>, hops: u32) -> HeaderMap {
    let mut out = without_ours(headers, true);
    out.append(MODEL_ID_BIN, id.binary.clone());
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
                    || name == LEGACY_MODEL_ID
                    || name == REQUIRED));
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
        let id = |pairs: &[(&str, &str)]| match ids_of(&headers(pairs)) {
            Ok((Ids::One(id), is_vmodel)) => Ok((id.to_string(), is_vmodel)),
            other => Err(other),
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
    fn repeated_headers_are_several_ids_in_their_order() {
        let ids = |pairs: &[(&str, &str)]| ids_of(&headers(pairs)).unwrap();
        let several = |texts: &[&str]| Ids::Several(texts.iter().map(|&text| text.into()).collect());
        assert_eq!(ids(&[("mm-model-id", "b"), ("mm-model-id", "a")]), (several(&["b", "a"]), false));
        assert_eq!(ids(&[("mm-vmodel-id", "a"), ("mm-vmodel-id", "a")]), (several(&["a", "a"]), true));
        assert_eq!(
            ids(&[("mm-model-id-bin", "w6k, YQ=="), ("mm-model-id-bin", "Yg")]),
            (several(&["é", "a", "b"]), false)
        );
    }

    #[test]
    fn bad_ids_are_refused_in_the_known_words() {
        let message = |pairs: &[(&str, &str)]| ids_of(&headers(pairs)).unwrap_err();
        assert_eq!(message(&[]).message, "must include mm-model-id header");
        assert_eq!(
            message(&[("mm-model-id", "a"), ("mm-vmodel-id-bin", "w6k")]).message,
            "must include only one of model id and vmodel id"
        );
        assert_eq!(message(&[("mm-model-id", "")]).message, "provided model-id header must be non-empty");
        assert_eq!(message(&[("mm-vmodel-id-bin", "")]).message, "provided vmodel-id header must be non-empty");
        assert_eq!(
            message(&[("mm-model-id", "a"), ("mm-model-id", "")]).message,
            "provided model-id header must be non-empty"
        );
        assert_eq!(message(&[("mm-model-id-bin", "/w")]).code, Code::INVALID_ARGUMENT);
    }

    #[test]
    fn the_runtime_gets_no_plain_header_for_an_id_that_is_not_ascii() {
        let out = for_runtime(&HeaderMap::new(), &IdHeaders::new("modèle"));
        assert_eq!(out.get(MODEL_ID), None);
        assert_eq!(ids_of(&out).unwrap(), (Ids::One("modèle".into()), false));
    }

    proptest! {
        #[test]
        fn only_exact_names_and_prefixes_are_dropped(name in "[a-z][a-z0-9-]{0,14}", id in "[!-~]{1,20}") {
            let map = headers(&[(&name, "value")]);
            let out = for_runtime(&map, &IdHeaders::new(&id));
            let dropped = name == "user-agent" || name == "content-length" || name == "tas-model-id" || name.starts_with("mm-")
                || (name.starts_with("grpc-") && name != "grpc-encoding" && name != "grpc-accept-encoding");
            prop_assert_eq!(out.contains_key(name.as_str()), !dropped || name == "mm-model-id" || name == "mm-model-id-bin");
            prop_assert_eq!(&out[MODEL_ID], &id);
        }

        #[test]
        fn a_peer_reads_the_ids_that_were_sent(id in ".{1,40}", vmodel in prop::option::of(".{1,40}")) {
            let out = for_peer(&headers(&[("mm-model-id", "other"), ("x", "y")]), &IdHeaders::new(&id), vmodel.as_deref(), 2);
            let (model, alias) = resolved_of(&out).unwrap();
            prop_assert_eq!(model.as_ref(), id.as_str());
            prop_assert_eq!(alias.as_deref(), vmodel.as_deref());
            prop_assert_eq!(hops_of(&out), 2);
            prop_assert_eq!(&out["x"], "y");
        }
    }
}
