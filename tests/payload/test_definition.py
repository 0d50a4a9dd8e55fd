import re
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.payload import (
    Definition,
    InvalidProcessor,
    check_name,
    parse_string,
    read_definition_text,
    read_file,
    without_password,
    without_secrets,
)

IDS = st.text(min_size=1, max_size=20).filter(lambda id_: id_ != "*" and not id_.startswith("/"))
METHODS = st.from_regex(r"[a-z]+(\.[a-z]+)*\.[A-Z][a-z]+/[A-Z][A-Za-z]+", fullmatch=True)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["logger:///", "http://host:8080/sink", "https://user:word@[::1]:9/a/b"]),
            st.none() | st.just("*") | IDS,
            st.none() | st.just("*") | METHODS,
            st.booleans(),
        )
    ),
    st.sampled_from([" ", "  ", "\n"]),
)
def test_each_uri_of_the_string_is_a_processor_with_its_filters(
    entries: list[tuple[str, str | None, str | None, bool]], between: str
) -> None:
    def written(uri: str, model_id: str | None, method: str | None, slash: bool) -> str:
        prefix = "/" if slash else ""
        query = "" if model_id is None else f"?{prefix}{model_id if model_id == '*' else quote(model_id)}"
        return uri + query + ("" if method is None else f"#{method}")

    found = parse_string(between.join(written(*entry) for entry in entries), capacity=7, consumers=3)
    assert list(found) == [f"env-{number}" for number in range(1, len(entries) + 1)]
    for named, (uri, model_id, method, slash) in zip(found.values(), entries, strict=True):
        definition = named.definition
        assert definition is not None, named.trouble
        assert definition.models == (() if model_id in {None, "*"} else (model_id,))
        assert definition.methods == (() if method in {None, "*"} else (method,))
        assert definition.uri == written(uri, model_id, None, slash)
        assert (definition.capacity, definition.consumers) == (7, 3)
        assert read_definition_text(definition.text()) == definition


@given(st.text())
def test_no_string_stops_an_instance(text: str) -> None:
    for named in parse_string(text).values():
        assert (named.definition is None) == bool(named.trouble)


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        ("htp://host/", "knows the scheme 'htp'; there are .*http, https.*logger"),
        ("host/path", "has no scheme: it must begin with one of .*http"),
        ("http://host:x/", "is no URI"),
        ("http://[::1/", "is no URI"),
    ],
)
def test_an_entry_that_cannot_be_is_told_and_the_others_are_used(entry: str, why: str) -> None:
    found = parse_string(f"logger:/// {entry} logger:///?m")
    assert [named.definition is not None for named in found.values()] == [True, False, True]
    assert re.search(why, found["env-2"].trouble)
    assert entry in found["env-2"].trouble


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"uri": "logger:///", "sampel": 1}', "unknown field `sampel`; there are uri, models"),
        ('{"uri": "logger:///", "sample": 0}', "> 0.*sample"),
        ('{"uri": "logger:///", "sample": 1.5}', "<= 1.0.*sample"),
        ('{"uri": "logger:///", "models": "m"}', "models"),
        ('{"uri": "logger:///", "models": [""]}', "models has an empty name"),
        ('{"uri": "logger:///#a.B/C"}', "name methods in the member 'methods'"),
        ('{"uri": "ftp://x"}', "knows the scheme 'ftp'"),
        ('{"models": []}', "uri"),
        ("{", "is no JSON"),
        ("[]", "payload processor"),
    ],
)
def test_a_definition_that_cannot_be_names_the_member(text: str, why: str) -> None:
    with pytest.raises(InvalidProcessor, match=why):
        read_definition_text(text)


def test_a_query_in_json_is_the_urls_own() -> None:
    definition = read_definition_text('{"uri": "http://host/sink?token=a&b=c", "models": ["m"]}')
    assert definition == Definition(uri="http://host/sink?token=a&b=c", models=("m",))


def test_a_file_tells_of_each_processor_by_itself() -> None:
    found = read_file('{"a": {"uri": "logger:///"}, "b": {"uri": "nothing:///"}}')
    assert found["a"].definition == Definition(uri="logger:///")
    assert "nothing" in found["b"].trouble
    for text, why in (
        ('["a"]', "object of processors by name"),
        ('{"env-1": {}}', "'env-' begins"),
        ('{"A b": {}}', "'A b'"),
    ):
        with pytest.raises(InvalidProcessor, match=why):
            read_file(text)


@pytest.mark.parametrize("name", ["", "-a", "a/b", "A", "a" * 64, "env-x"])
def test_names_fit_keys_and_labels(name: str) -> None:
    with pytest.raises(InvalidProcessor):
        check_name(name)


def test_passwords_are_not_shown() -> None:
    assert without_password("https://user:secret@host/a:b@c") == "https://user:***@host/a:b@c"
    assert without_password("https://host/a:b@c") == "https://host/a:b@c"


def test_what_people_are_shown_has_no_secrets() -> None:
    definition = Definition(
        uri="https://user:s3cret@host/path",
        options={
            "headers": {"Authorization": "s3cret", "X-Team": "vision"},
            "storage": {"secret_access_key": "s3cret", "account_key": "s3cret", "region": "eu"},
            "sasl_password_file": "/run/password",
            "timeout_s": 3,
        },
    )
    shown = without_secrets(definition)
    assert "s3cret" not in shown.text()
    assert shown.uri == "https://user:***@host/path"
    assert shown.options["headers"] == {"Authorization": "***", "X-Team": "vision"}
    assert shown.options["storage"]["region"] == "eu"
    assert shown.options["sasl_password_file"] == "/run/password"
    assert definition.options["storage"]["account_key"] == "s3cret"
