"""Every dependency is pinned, transitive ones too, and no pin names where it comes from."""

import pathlib
import re

import pytest

from scripts import pin

ROOT = pathlib.Path(__file__).parents[2]
PYPROJECT = (ROOT / "pyproject.toml").read_text()
FILES = pin.read_files()


def test_pins_and_requirements_agree() -> None:
    assert not pin.mistakes(PYPROJECT, FILES)


def test_no_file_names_an_index() -> None:
    for name, text in {"pyproject.toml": PYPROJECT, **FILES}.items():
        assert "://" not in text, name
        assert not re.search(r"index[-_]url|find[-_]links|tool\.uv\.(index|sources)", text), name


def test_uvs_lock_is_not_kept() -> None:
    assert "uv.lock" in (ROOT / ".gitignore").read_text().split()


def test_a_dependency_without_an_exact_version_is_told() -> None:
    loose = PYPROJECT.replace('"numpy==', '"numpy>=')

    with pytest.raises(SystemExit, match=r"'numpy>=.*' in pyproject\.toml is not pinned exactly"):
        pin.direct_pins(loose)


def test_a_changed_direct_pin_is_told() -> None:
    changed = PYPROJECT.replace('    "typer==', '    "typer==9.', 1)

    assert any("requires typer==9." in sentence for sentence in pin.mistakes(changed, FILES))


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("--index-url https://example.invalid/simple\n", "neither an exact pin nor a hash"),
        ("left-pad==1.0\n", "a pin has no hash"),
        ("left-pad==1.0 \\\n    --hash=sha256:" + "0" * 64 + "\n", "are not those of requirements/all.txt"),
    ],
)
def test_a_line_that_does_not_belong_is_told(line: str, sentence: str) -> None:
    changed = {**FILES, "all.txt": FILES["all.txt"] + line}

    assert any(sentence in one for one in pin.mistakes(PYPROJECT, changed))


def test_a_marker_stays_only_where_it_tells_two_versions_apart() -> None:
    hashed = " \\\n    --hash=sha256:" + "0" * 64 + "\n"
    text = "".join(
        one + hashed
        for one in (
            "a==1 ; python_full_version < '3.12' and sys_platform == 'linux'",
            "a==2 ; python_full_version >= '3.12' and sys_platform == 'linux'",
            "b==1 ; sys_platform == 'win32'",
        )
    )

    assert pin.pins_of(text) == ["a==1 ; python_full_version < '3.12'", "a==2 ; python_full_version >= '3.12'", "b==1"]
