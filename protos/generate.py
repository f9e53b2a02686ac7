"""Generates the message modules and the gRPC stubs from protos/*.proto: `python -m protos.generate [--check]`.

Decides where generated code goes (messages beside their source, stubs in serving/rpc) and moves it into a private descriptor
pool, so that it can be imported beside another copy of the same protocol. Called by hand and, with --check, by CI. Needs
grpcio-tools, a development dependency; nothing at run time imports this module.
"""

import argparse
import pathlib
import sys
import tempfile

PROTOS = pathlib.Path(__file__).parent
ROOT = PROTOS.parent
DEFAULT_POOL = "_descriptor_pool.Default()"
PRIVATE_POOL_IMPORT = "from protos.pool import POOL"


def generate(out: pathlib.Path) -> dict[pathlib.Path, str]:
    """Return the generated text of every file, keyed by its path relative to the project."""
    from grpc_tools import protoc

    sources = sorted(path.name for path in PROTOS.glob("*.proto"))
    arguments = ["protoc", f"-I{PROTOS}", f"--python_out={out}", f"--pyi_out={out}", f"--grpc_python_out={out}"]
    if protoc.main([*arguments, *sources]):
        raise SystemExit("protos.generate: protoc refused a source, see above")
    files = {}
    for path in sorted(out.iterdir()):
        text = path.read_text()
        if path.name.endswith("_pb2_grpc.py"):
            if "Servicer" not in text:
                continue
            stem = path.name.removesuffix("_pb2_grpc.py")
            text = text.replace(f"import {stem}_pb2 as", f"from protos import {stem}_pb2 as")
            files[pathlib.Path("serving/rpc") / path.name] = text
            continue
        if path.suffix == ".py":
            if DEFAULT_POOL not in text:
                raise SystemExit(f"protos.generate: {path.name} does not name the default pool where expected")
            text = text.replace(DEFAULT_POOL, "POOL").replace(
                "from google.protobuf import descriptor_pool as _descriptor_pool", PRIVATE_POOL_IMPORT
            )
        files[pathlib.Path("protos") / path.name] = text
    return files


def main() -> int:
    """Write the generated files, or with --check say which of them differ from their source."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where a committed file differs")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        files = generate(pathlib.Path(folder))
    stale = [path for path, text in files.items() if not (ROOT / path).exists() or (ROOT / path).read_text() != text]
    if arguments.check:
        for path in stale:
            print(f"{path} differs from its source: run `python -m protos.generate`", file=sys.stderr)
        return 1 if stale else 0
    for path in stale:
        (ROOT / path).write_text(files[path])
        print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
