"""Addresses as model paths."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.puller import Code, PullFailure
from mesh.puller.uris import Located, locate, scheme_of


@pytest.mark.parametrize(
    ("uri", "located"),
    [
        ("s3://models/a/b", Located("s3", "a/b", {"bucket": "models"})),
        ("S3://models", Located("s3", "", {"bucket": "models"})),
        ("gs://models/a", Located("gcs", "a", {"bucket": "models"})),
        ("pvc://claim/a", Located("pvc", "a", {"name": "claim"})),
        ("file:///srv/a%20b", Located("local", "/srv/a b")),
        (
            "https://account1.blob.core.windows.net/models/a/b",
            Located("azure", "a/b", {"account_name": "account1", "container": "models"}),
        ),
        ("https://host:8443/a/b%20c?x=1", Located("http", "a/b c", {"url": "https://host:8443/?x=1"})),
        ("hf://owner/model:main", Located("hf", "owner/model:main")),
        ("mystore://a/b", Located("mystore", "a/b")),
    ],
)
def test_an_address_tells_where_it_leads(uri: str, located: Located) -> None:
    assert locate(uri) == located


@pytest.mark.parametrize("uri", ["s3://", "s3:///a", "https://", "https:///a?secret=1", "hf://"])
def test_half_an_address_is_refused(uri: str) -> None:
    with pytest.raises(PullFailure) as raised:
        locate(uri)
    assert raised.value.code is Code.INVALID_ARGUMENT
    assert "secret" not in raised.value.message


@given(st.text(max_size=40), st.sampled_from(["s3", "gs", "pvc", "https", "file", "x+y", "hf"]))
def test_no_address_does_worse_than_being_refused(rest: str, scheme: str) -> None:
    uri = f"{scheme}://{rest}"
    assert scheme_of(uri) == scheme
    with suppress(PullFailure):
        assert locate(uri).type
