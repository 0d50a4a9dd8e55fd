"""The S3 server of the tests does what the tests of the puller rely on."""

import obstore
import pytest

from tests.servers.s3 import S3Server


def test_serves_what_was_uploaded_and_what_lies_in_its_folders(s3: S3Server) -> None:
    s3.put("models", {"digits/1/model.onnx": b"weights", "digits/notes.txt": b""})
    s3.path("models", "digits/notes.txt").write_bytes(b"written past the server")
    store = s3.store("models")
    listed = {found["path"] for found in obstore.list(store, "digits").collect()}
    assert listed == {"digits/1/model.onnx", "digits/notes.txt"}
    assert obstore.get(store, "digits/1/model.onnx").bytes().to_bytes() == b"weights"
    assert obstore.get(store, "digits/notes.txt").bytes().to_bytes() == b"written past the server"


def test_refuses_another_key(s3: S3Server) -> None:
    s3.put("models", {"a": b"1"})
    stranger = obstore.store.S3Store(
        "models",
        endpoint=s3.endpoint,
        region=s3.region,
        access_key_id=s3.access_key_id,
        secret_access_key="wrong",
        virtual_hosted_style_request=False,
        client_options={"allow_http": True},
    )
    with pytest.raises(obstore.exceptions.PermissionDeniedError):
        obstore.get(stranger, "a")
