"""Generates the modules of ``mesh.protos`` from the ``.proto`` files, or checks that they match.

Usage: python tools/generate_protos.py [--check]

The generator is pinned in the ``protos`` extra: stubs made by newer ones refuse to load under
protobuf 6, which several model servers still require.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

SOURCE = Path(__file__).resolve().parent.parent / "src"
PROTOS = SOURCE / "mesh" / "protos"
GENERATED = ("*_pb2.py", "*_pb2.pyi", "*_pb2_grpc.py", "*_pb2_grpc.pyi")


def generate(out: Path) -> None:
    """Writes the generated modules below ``out``/mesh/protos."""
    protos = sorted(PROTOS.glob("*.proto"))
    bin_dir = Path(sys.executable).parent
    subprocess.run(
        [
            sys.executable,
            "-m",
            "grpc_tools.protoc",
            f"--proto_path={SOURCE}",
            f"--plugin=protoc-gen-mypy={bin_dir / 'protoc-gen-mypy'}",
            f"--plugin=protoc-gen-mypy_grpc={bin_dir / 'protoc-gen-mypy_grpc'}",
            f"--python_out={out}",
            f"--mypy_out=quiet:{out}",
            f"--grpc_python_out={out}",
            f"--mypy_grpc_out=quiet,only_async:{out}",
            *(str(proto.relative_to(SOURCE)) for proto in protos),
        ],
        cwd=SOURCE,
        check=True,
    )
    target = out / "mesh" / "protos"
    services = {proto.stem for proto in protos if re.search(r"^service ", proto.read_text(), re.MULTILINE)}
    for path in target.glob("*_pb2_grpc.py*"):
        if path.name.split("_pb2_grpc")[0] not in services:
            path.unlink()
    for path in target.glob("*_pb2.py"):
        path.write_text(_use_private_pool(path.read_text()))
    for path in target.glob("*_pb2_grpc.py"):
        path.write_text(_use_any_grpc_release(path.read_text()))
    for path in target.glob("*_pb2_grpc.pyi"):
        path.write_text(
            re.sub(r"^GRPC_(GENERATED_)?VERSION: str\n", "", path.read_text(), flags=re.MULTILINE)
        )


def _use_private_pool(text: str) -> str:
    text = text.replace(
        "from google.protobuf import descriptor_pool as _descriptor_pool",
        "from mesh.protos._pool import POOL as _pool",
    )
    return text.replace("_descriptor_pool.Default()", "_pool")


def _use_any_grpc_release(text: str) -> str:
    # The generated check demands the generator's own grpcio release or a newer one; the code it
    # guards works with every release since 1.63, which pyproject.toml requires.
    start = text.index("GRPC_GENERATED_VERSION")
    end = text.index("class ")
    end = text.rindex("\n\n\n", start, end)
    return text[:start].rstrip() + text[end:]


def _read(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for pattern in GENERATED for path in folder.glob(pattern)}


def main() -> int:
    """Generates, or with ``--check`` tells what is stale."""
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(temporary)
        generate(out)
        fresh = _read(out / "mesh" / "protos")
    present = _read(PROTOS)
    if "--check" in sys.argv[1:]:
        stale = sorted(name for name in fresh.keys() | present.keys() if fresh.get(name) != present.get(name))
        if stale:
            print(f"stale: {', '.join(stale)}; run python tools/generate_protos.py")
        return 1 if stale else 0
    for name in present.keys() - fresh.keys():
        (PROTOS / name).unlink()
    for name, text in fresh.items():
        (PROTOS / name).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
