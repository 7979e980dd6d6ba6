"""Without its guard an attack succeeds: every guard is taken out once, and its tests must fail."""

from __future__ import annotations

import ast
import contextlib
import importlib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from _pytest.outcomes import Failed

from edge_agent.contract.errors import UpdateRejected
from tests.attacks.guards import GUARDS, Victim
from tests.attacks.test_envelopes import new_channel
from tests.edge_agent.update.test_intake import Door
from tests.simulators.bench import Bench

HERE = Path(__file__).parent


def run(victim: Victim, directory: Path) -> None:
    """Run a test as pytest would, with a fixture of its own."""
    function = getattr(importlib.import_module(victim.module), victim.name)
    wanted = set(inspect.signature(function).parameters) - victim.given.keys()
    directory.mkdir()
    with contextlib.ExitStack() as stack:
        made = {name: MAKERS[name](directory, stack) for name in wanted}
        function(**made, **victim.given)


def make_door(directory: Path, stack: contextlib.ExitStack) -> Door:
    door = Door(directory)
    stack.callback(door.store.close)
    stack.callback(door.helper.stop)
    return door


def make_bench(directory: Path, stack: contextlib.ExitStack) -> Bench:
    bench = Bench(directory)
    stack.callback(bench.crash)
    return bench


MAKERS: dict[str, Callable[[Path, contextlib.ExitStack], Any]] = {
    "channel": lambda directory, stack: new_channel(),
    "tmp_path": lambda directory, stack: directory,
    "door": make_door,
    "bench": make_bench,
}


def switch_off(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    for place, stand_in in GUARDS[name].off.items():
        module, _, path = place.partition(":")
        owner = importlib.import_module(module)
        *outer, attribute = path.split(".")
        for part in outer:
            owner = getattr(owner, part)
        assert hasattr(owner, attribute), f"{place} is not there any more: its guard has another name now"
        monkeypatch.setattr(owner, attribute, stand_in)


VICTIMS = [(name, victim) for name, guard in GUARDS.items() for victim in guard.victims]


@pytest.mark.parametrize(("name", "victim"), VICTIMS, ids=[f"{name}-{victim.name}" for name, victim in VICTIMS])
def test_without_its_guard_an_attack_succeeds(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, victim: Victim
) -> None:
    run(victim, tmp_path / "with")
    with monkeypatch.context() as patch:
        switch_off(patch, name)
        with pytest.raises((AssertionError, Failed, LookupError, UpdateRejected)):
            run(victim, tmp_path / "without")


def test_every_attack_of_this_directory_has_a_guard() -> None:
    """An attack test that no guard's absence can fail would show nothing."""
    named = {victim.name for guard in GUARDS.values() for victim in guard.victims}
    written = {
        node.name
        for file in ("test_envelopes.py", "test_releases.py")
        for node in ast.walk(ast.parse((HERE / file).read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }
    assert sorted(written - named) == []
