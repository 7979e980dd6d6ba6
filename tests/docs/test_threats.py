"""The threats name every attack, every attack test, and which of them are run without their guard."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from tests.attacks.guards import GUARDS

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "THREATS.md").read_text(encoding="utf-8")
NAMED = {
    "arbitrary software", "altered target", "endless data", "extraneous dependency", "fast-forward",
    "recovery from fast-forward", "freeze", "mix-and-match", "rollback", "rollback after a lost database",
    "rollback after a truncated cache", "key compromise under threshold", "revoked key",
    "wrong software under another's name", "staging signing for production", "another fleet's envelope",
    "stolen rollout key", "stolen operator key",
    "malicious mirror", "slow retrieval", "drop-request", "wrong machine", "security floor",
    "withheld bundle", "denial of service", "clock at 1970", "clock at 2099",
    "root chain with a garbage link",
}  # fmt: skip


def rows() -> dict[str, str]:
    """Return the table of attacks by name: the tests, by name."""
    table = TEXT.partition("## Attacks by name")[2].partition("\n## ")[0]
    lines = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| ")]
    return {cells[0]: cells[-1] for cells in lines if len(cells) == 3 and cells[0] not in ("name", "---")}


def marked() -> set[str]:
    return set(re.findall(r"::(test_\w+)` \*", "\n".join(rows().values())))


def test_every_attack_has_its_row() -> None:
    assert sorted(NAMED - rows().keys()) == []
    assert [name for name, tests in rows().items() if "::test_" not in tests] == []


def test_every_attack_test_is_in_the_table() -> None:
    written = {
        node.name
        for path in (ROOT / "tests" / "attacks").glob("test_*.py")
        if path.name != "test_guards.py"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }
    assert len(written) > 10
    assert sorted(name for name in written if f"::{name}`" not in "\n".join(rows().values())) == []


def test_what_is_marked_is_run_without_its_guard_and_the_reverse() -> None:
    guarded = {victim.name for guard in GUARDS.values() for victim in guard.victims}
    assert sorted(marked() - guarded) == []
    in_table = set(re.findall(r"::(test_\w+)`", "\n".join(rows().values())))
    assert sorted(in_table & guarded - marked()) == []
