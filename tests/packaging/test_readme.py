"""What the README says is there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from provenn.bounds.graph._module import LOWERINGS
from provenn.bounds.graph._onnx import HANDLERS
from provenn.cli import commands

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    "README.md",
    "CHANGELOG.md",
    "vnnlib_examples/README.md",
    "docs/architecture.md",
    "docs/decisions.md",
    "docs/operators.md",
    "docs/tutorial.md",
    "docs/report.md",
]


def readme_commands() -> list[str]:
    """The two command lines that do everything on a fresh machine."""
    lines = (ROOT / "README.md").read_text().splitlines()
    return [line.strip() for line in lines if line.strip().startswith("python3 -m venv")]


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", (ROOT / page).read_text()):
        if "://" not in target:
            assert ((ROOT / page).parent / target).exists(), f"{page} links to {target}"


def test_two_commands_do_everything() -> None:
    verify, tests = readme_commands()
    steps = [shlex.split(step) for step in verify.split("&&")]
    assert steps[-1][:2] == ["provenn", "verify"]
    assert all((ROOT / name).is_file() for name in steps[-1][2:])
    assert tests.split("&&")[-1].split()[0] == "pytest" and "[test]" in tests


def test_every_option_is_in_the_readme() -> None:
    text = (ROOT / "README.md").read_text()
    for name in ("verify", "bench", "report"):
        for parameter in commands.commands[name].params:
            long = next((option for option in parameter.opts if option.startswith("--")), None)
            if name != "bench" or long in ("--timeout", "--jobs", "--witnesses", "--reports"):
                assert long in (None, "--verbose", "--output") or long in text, f"{name} {long}"


@pytest.mark.parametrize("command", ["verify", "inspect", "bench", "report"])
def test_help_works(command: str) -> None:
    result = CliRunner().invoke(commands, [command, "--help"])
    assert result.exit_code == 0 and result.output.startswith("Usage: ")


def test_every_operator_that_is_imported_is_listed_once() -> None:
    page, modules = (ROOT / "docs/operators.md").read_text().split("## Torch modules")
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    listed = [name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])]
    assert sorted(listed) == sorted(HANDLERS)
    lowered = re.findall(r"`(\w+)`", "\n".join(line for line in modules.splitlines() if line.startswith("`")))
    assert sorted(lowered) == sorted(LOWERINGS)


def test_the_code_of_the_readme_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    (code,) = re.findall(r"(?s)```python\n(.*?)```", (ROOT / "README.md").read_text())
    names: dict[str, Any] = {}
    exec(code, names)
    assert names["result"].verdict in ("sat", "unsat") and names["bounds"].lower.shape == (1, 3)
