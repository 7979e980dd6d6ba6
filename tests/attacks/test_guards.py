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
from _pytest._code import ExceptionInfo, Traceback
from _pytest.outcomes import Failed

from tests.attacks.guards import GUARDS, Victim
from tests.attacks.test_envelopes import new_channel
from tests.edge_agent.test_commands import Desk
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


def make_desk(directory: Path, stack: contextlib.ExitStack) -> Desk:
    desk = Desk(directory)
    stack.callback(desk.store.close)
    return desk


MAKERS: dict[str, Callable[[Path, contextlib.ExitStack], Any]] = {
    "channel": lambda directory, stack: new_channel(),
    "tmp_path": lambda directory, stack: directory,
    "door": make_door,
    "bench": make_bench,
    "desk": make_desk,
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


def require_rightly_failed(failure: BaseException, victim: Victim) -> None:
    """Fail unless a test failed by what it asserts, in words of its own: anything else shows a broken test only.

    A victim may name another error (`fails`): what its test, which expects none, meets without the guard.
    """
    if victim.fails is not None:
        assert type(failure) is victim.fails, f"{victim.name} should fail with {victim.fails.__name__}: {failure!r}"
        return
    assert isinstance(failure, (AssertionError, Failed)), f"{victim.name} broke instead of failing: {failure!r}"
    frames = [Path(frame.path) for frame in traceback(failure)]
    ours = [path for path in frames if "pytest" not in str(path) and path.name != "contextlib.py"]
    assert ours[-1].is_relative_to(HERE.parent), f"{victim.name}: {ours[-1]} asserted, not the test: {failure!r}"


def traceback(failure: BaseException) -> Traceback:
    return ExceptionInfo.from_exception(failure).traceback


VICTIMS = [(name, victim) for name, guard in GUARDS.items() for victim in guard.victims]


@pytest.mark.parametrize(("name", "victim"), VICTIMS, ids=[f"{name}-{victim.name}" for name, victim in VICTIMS])
def test_without_its_guard_an_attack_succeeds(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, victim: Victim
) -> None:
    run(victim, tmp_path / "with")
    with monkeypatch.context() as patch:
        switch_off(patch, name)
        with pytest.raises(BaseException) as caught:
            run(victim, tmp_path / "without")
    require_rightly_failed(caught.value, victim)


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


def fail_by_assertion() -> None:
    assert len("a") == 2


def break_by_a_typo() -> None:
    {}["missing"]


def assert_elsewhere() -> None:
    ast.literal_eval("1")
    ast.parse(1, type_comments=True)  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("failing", "fails", "right"),
    [
        (fail_by_assertion, None, True),
        (lambda: pytest.fail("did not raise"), None, True),
        (break_by_a_typo, None, False),
        (assert_elsewhere, None, False),
        (break_by_a_typo, KeyError, True),
        (fail_by_assertion, KeyError, False),
    ],
)
def test_a_wrong_failure_is_told_from_a_right_one(
    failing: Callable[[], None], fails: type[BaseException] | None, right: bool
) -> None:
    with pytest.raises((Exception, Failed)) as caught:
        failing()
    judged = Victim("module", "name", {}, fails)
    if right:
        require_rightly_failed(caught.value, judged)
    else:
        with pytest.raises(AssertionError):
            require_rightly_failed(caught.value, judged)
