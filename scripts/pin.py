"""Pins every dependency, transitive ones too: `python -m scripts.pin [--check]`.

Resolves the project for all of its platforms and Python versions at once with uv, from the direct pins of
pyproject.toml alone, then writes the outcome to the `pins` block of pyproject.toml (what `uv run` follows) and to
requirements/*.txt (with hashes, for images and for pip). Neither names an index host: uv.lock does, so it is not kept.
With --check nothing is resolved and no network is used: it says where pyproject.toml and the requirements disagree.
Called by hand and by CI.
"""

import argparse
import pathlib
import re
import subprocess
import sys
import tempfile
import tomllib

ROOT = pathlib.Path(__file__).parent.parent
BEGIN, END = "# pins begin\n", "# pins end\n"
#: File in requirements/, and what `uv export` takes for it.
EXPORTS = {
    "serving.txt": ["--no-default-groups", "--extra=serving"],
    "loop.txt": ["--no-default-groups", "--extra=loop"],
    "all.txt": ["--all-extras", "--all-groups"],
}
BUILD = "build.txt"
#: name==version, then its environment marker where it has one; its hashes follow on lines of their own.
PIN = re.compile(r"^(?P<name>[a-z0-9][a-z0-9._-]*)==(?P<version>[^\s;\\]+)(?: ; (?P<marker>[^\\]+?))?(?: \\)?$")
HASH = re.compile(r"^    --hash=sha256:[0-9a-f]{64}(?: \\)?$")
DIRECT = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)(?:\[[a-z,]+\])?==(?P<version>[^\s;*]+)$")
PYTHON_MARKER = re.compile(r"python_full_version (?:<|>=|==) '[0-9.*]+'")


def uv(*arguments: str, folder: pathlib.Path) -> str:
    """Return what uv prints; its complaints go to standard error, and end this script."""
    done = subprocess.run(["uv", *arguments], cwd=folder, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"pin: `uv {' '.join(arguments)}` failed, see above")
    return done.stdout


def resolve(pyproject: str) -> dict[str, str]:
    """Return the text of each file in requirements/, resolved from the direct pins alone."""
    quiet = ["--quiet", "--no-header", "--no-annotate"]
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        (folder / "pyproject.toml").write_text(replace_pins(pyproject, [], []))
        for needed in ("README.md", "LICENSE"):
            (folder / needed).write_text("")
        uv("lock", "--quiet", folder=folder)
        files = {
            file: uv("export", *quiet, "--no-emit-project", *arguments, folder=folder)
            for file, arguments in EXPORTS.items()
        }
        (folder / "build.in").write_text("\n".join(tomllib.loads(pyproject)["build-system"]["requires"]))
        files[BUILD] = uv("pip", "compile", *quiet, "--universal", "--generate-hashes", "build.in", folder=folder)
    return files


def pins_of(requirements: str) -> list[str]:
    """Return a requirements file's pins as constraints: a marker stays only where it tells two versions apart.

    Platform markers are left out, since a constraint that nothing requires has no effect; so the list works on
    platforms that the exported files don't name.
    """
    found = [match for line in requirements.splitlines() if (match := PIN.match(line))]
    names = [match["name"] for match in found]
    pins = []
    for match in found:
        pin = f"{match['name']}=={match['version']}"
        if names.count(match["name"]) > 1:
            pin += " ; " + " and ".join(PYTHON_MARKER.findall(match["marker"] or ""))
        pins.append(pin)
    return pins


def replace_pins(pyproject: str, pins: list[str], build_pins: list[str]) -> str:
    """Return pyproject.toml's text with another `pins` block."""

    def listed(key: str, values: list[str]) -> str:
        return f"{key} = [\n" + "".join(f'    "{value}",\n' for value in values) + "]\n" if values else f"{key} = []\n"

    before, rest = pyproject.split(BEGIN)
    _, after = rest.split(END)
    block = listed("constraint-dependencies", pins) + listed("build-constraint-dependencies", build_pins)
    return before + BEGIN + block + END + after


def direct_pins(pyproject: str) -> dict[str, str]:
    """Return what pyproject.toml requires by name, as written.

    Raises:
        SystemExit: one of them is not pinned exactly.
    """
    values = tomllib.loads(pyproject)
    project = values["project"]
    extras, groups_of_uv = project["optional-dependencies"], values["dependency-groups"]
    groups = [project["dependencies"], *extras.values(), *groups_of_uv.values()]
    pins = {}
    for requirement in (one for group in groups for one in group if not one.startswith(f"{project['name']}[")):
        match = DIRECT.match(requirement)
        if match is None:
            raise SystemExit(f"pin: {requirement!r} in pyproject.toml is not pinned exactly: write name==version")
        pins[match["name"].lower().replace("_", "-")] = match["version"]
    return pins


def mistakes(pyproject: str, files: dict[str, str]) -> list[str]:
    """Return a sentence for each place where pins, requirements and direct dependencies disagree. Needs no network."""
    found = []
    for file, text in files.items():
        for number, line in enumerate(text.splitlines(), start=1):
            if not (PIN.match(line) or HASH.match(line)):
                found.append(f"requirements/{file}:{number}: neither an exact pin nor a hash: {line.strip()!r}")
        if text.count("--hash=") < len(pins_of(text)) or re.search(r"==[^\n\\]*\n(?!    --hash)", text):
            found.append(f"requirements/{file}: a pin has no hash")
        if extra := set(pins_of(text)) - set(pins_of(files["all.txt"])) - set(pins_of(files[BUILD])):
            found.append(f"requirements/{file} pins {', '.join(sorted(extra))}, requirements/all.txt doesn't")
    if replace_pins(pyproject, pins_of(files["all.txt"]), pins_of(files[BUILD])) != pyproject:
        found.append("the pins of pyproject.toml are not those of requirements/all.txt and requirements/build.txt")
    pinned = set(pins_of(files["all.txt"]))
    for name, version in direct_pins(pyproject).items():
        if f"{name}=={version}" not in pinned:
            found.append(f"pyproject.toml requires {name}=={version}, requirements/all.txt doesn't have it")
    return found


def read_files() -> dict[str, str]:
    """Return the committed text of each file in requirements/; empty where it is missing."""
    paths = {file: ROOT / "requirements" / file for file in (*EXPORTS, BUILD)}
    return {file: path.read_text() if path.exists() else "" for file, path in paths.items()}


def main() -> int:
    """Renew the pins, or with --check say what is wrong with them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--check", action="store_true", help="write nothing, use no network; exit 1 where pins disagree"
    )
    arguments = parser.parse_args()
    path = ROOT / "pyproject.toml"
    pyproject = path.read_text()
    direct_pins(pyproject)
    if arguments.check:
        found = mistakes(pyproject, read_files())
        for sentence in found:
            print(f"{sentence}. Run `python -m scripts.pin`", file=sys.stderr)
        return 1 if found else 0
    files = resolve(pyproject)
    path.write_text(replace_pins(pyproject, pins_of(files["all.txt"]), pins_of(files[BUILD])))
    for file, text in files.items():
        (ROOT / "requirements" / file).write_text(text)
    print(f"pinned {len(pins_of(files['all.txt']))} packages, {len(pins_of(files[BUILD]))} for building")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
