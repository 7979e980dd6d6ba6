"""The page on health names every reason that is provoked, every field of the policy, and nothing that is not there."""

from __future__ import annotations

import re
from pathlib import Path

from edge_agent.contract.errors import ReasonCode
from edge_agent.contract.manifest import HealthPolicy
from edge_agent.runtime.health import ALPHA
from tests.edge_agent.runtime.test_reasons import REASONS

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "HEALTH.md").read_text(encoding="utf-8")


def rows(heading: str) -> list[list[str]]:
    table = TEXT.partition(f"## {heading}")[2].partition("\n## ")[0]
    found = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| ")]
    return [cells for cells in found if cells[0] not in ("---", "what a release does", "what happens")]


def test_every_case_has_its_row_with_its_code_and_the_reverse() -> None:
    cases = {cells[3].strip("`"): cells[2].strip("`") for cells in rows("Reasons") if "::" not in cells[3]}
    assert cases == {name: code.value for name, (_, _, code) in REASONS.items()}


def test_every_row_names_a_test() -> None:
    assert [cells for cells in rows("Reasons") if not re.search(r"`[^`]+`", cells[3])] == []
    assert [cells for cells in rows("Nobody's fault") if "::test_" not in cells[-1]] == []
    assert len(rows("Nobody's fault")) >= 6


def test_every_code_of_probation_has_a_row() -> None:
    probation = {ReasonCode.START, ReasonCode.SELF_TEST, *(code for _, _, code in REASONS.values())}
    assert {code.value for code in probation} == {cells[2].strip("`") for cells in rows("Reasons")} - {"as above"}


def test_every_limit_of_the_policy_is_explained() -> None:
    plain = {"probation_seconds", "probation_frames", "shadow_frames"}  # when it ends: FORMAT.md
    named = set(re.findall(r"`(\w+)`", TEXT))
    assert set(HealthPolicy.__struct_fields__) - plain - named == set()


def test_the_shares_of_the_false_rollback_probability_are_the_codes() -> None:
    assert ALPHA["errors"] == ALPHA["wrong"] == 4e-5
    assert "4·10⁻⁵ each for errors and results" in TEXT
    assert all(ALPHA[name] == 5e-6 for name in ("slow", "slower", "apart", "growth"))
    assert "5·10⁻⁶ each" in TEXT
