"""State: whatever was learned, under any name; the live instance is never touched."""

from __future__ import annotations

import logging
import pickle
import socket
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_agent.contract.errors import AuthorError
from edge_agent.sdk import plain, state
from edge_agent.sdk.filter import Filter, construct, parameters_of
from edge_agent.sdk.state import capture, is_pickled, restore
from edge_agent.sdk.window import Window


class Scaler(Filter):
    def __init__(self, scale=1.0):
        super().__init__(scale=scale)
        self._mean = None
        self.count = 0
        self.table = {}

    def fit(self, x, y=None):
        self._mean = np.mean(x, axis=0)
        self.learned_late = ("deep", {1: b"x"})
        return self


def moved(target):
    """What arrives on a device: a fresh instance with the captured state."""
    data = state.capture(target)
    fresh = construct(type(target), parameters_of(target))
    if data is not None:
        state.restore(fresh, data)
    return fresh, data


def test_state_is_found_whatever_its_name():
    fitted = Scaler(2.0).fit(np.array([[1.0, 2.0], [3.0, 4.0]]))
    fitted.table["x"] = 1
    fresh, _ = moved(fitted)
    assert fresh._mean.tolist() == [2.0, 3.0]
    assert fresh.learned_late == ("deep", {1: b"x"})
    assert fresh.table == {"x": 1}


def test_only_what_differs_is_kept():
    fitted = Scaler().fit(np.array([[1.0]]))
    assert set(plain.decode(state.capture(fitted))["attributes"]) == {"_mean", "learned_late"}
    assert state.capture(Scaler(3.0)) is None


def test_a_parameter_changed_by_fit_travels_as_parameter():
    changed = Scaler()
    changed.scale = 7.0
    fresh, data = moved(changed)
    assert data is None
    assert fresh.scale == 7.0


def test_a_deleted_attribute_is_gone_there_too():
    bare = Scaler()
    del bare.count
    fresh, _ = moved(bare)
    assert not hasattr(fresh, "count")
    state.restore(fresh, state.capture(bare))


def test_nan_does_not_count_as_a_change():
    class Holding(Filter):
        def __init__(self):
            self.last = float("nan")
            self.past = np.array([np.nan])

    assert state.capture(Holding()) is None


def test_equal_state_gives_equal_bytes():
    one, two = (Scaler().fit(np.array([[1.0]])) for _ in range(2))
    assert state.capture(one) == state.capture(two)


def test_slots_are_state_too():
    class Slotted(Filter):
        __slots__ = ("__hidden", "seen")

        def __init__(self):
            self.__hidden = 1
            self.seen = 0

        def bump(self):
            self.__hidden += 1
            return self

        def hidden(self):
            return self.__hidden

    fresh, _ = moved(Slotted().bump())
    assert fresh.hidden() == 2


def test_frozen_dataclasses_can_be_restored():
    @dataclass(frozen=True)
    class Frozen(Filter):
        gain: float = 1.0

    target = Frozen(2.0)
    object.__setattr__(target, "learned", [1])
    fresh, _ = moved(target)
    assert fresh.learned == [1]


def test_windows_have_no_state():
    from edge_agent.sdk.filter import apply
    from edge_agent.sdk.frame import Frame

    window = Window(5, hop=2)
    apply(window, Frame.of(np.zeros((3, 1))))
    assert state.capture(window) is None


# --- hooks ------------------------------------------------------------------------------------------------------------


class Hooked(Scaler):
    def __getstate__(self):
        return {**vars(self), "count": 99}


class Both(Scaler):
    def __getstate__(self):
        return dict(vars(self))

    def __setstate__(self, given):
        self.scale = given["scale"]
        self.count = given["count"] + 1
        self._mean = given["_mean"]


class Opaque(Filter):
    def __init__(self):
        self.items = []

    def __getstate__(self):
        return [len(self.items), *self.items]

    def __setstate__(self, given):
        self.items = given[1:]


def test_getstate_alone_is_honoured():
    fitted = Hooked().fit(np.array([[4.0]]))
    fresh, _ = moved(fitted)
    assert fresh._mean.tolist() == [4.0]
    assert fresh.count == 0  # 99 in the twin's too: no difference


def test_setstate_gets_every_key_and_the_device_s_own_parameters():
    fitted = Both(2.0).fit(np.array([[4.0]]))
    data = state.capture(fitted)
    tuned = Both(5.0)
    state.restore(tuned, data)
    assert (tuned.scale, tuned.count, tuned._mean.tolist()) == (5.0, 1, [4.0])
    assert state.capture(Both()) is None


def test_a_state_of_any_kind():
    full = Opaque()
    full.items = ["a", "b"]
    fresh, _ = moved(full)
    assert fresh.items == ["a", "b"]
    assert state.capture(Opaque()) is None


def test_an_opaque_state_needs_a_setstate_and_plain_values():
    class OneWay(Filter):
        def __getstate__(self):
            return [1]

    with pytest.raises(AuthorError, match=r"OneWay.__getstate__ returns a list, so the class needs a __setstate__"):
        state.capture(OneWay())
    broken = Opaque()
    broken.items = [object()]
    with pytest.raises(AuthorError, match=r"Opaque.__getstate__\(\)\[1\] is a builtins.object"):
        state.capture(broken)


# --- what is not plain ------------------------------------------------------------------------------------------------


class Connected(Filter):
    """Opens in initialize() what cannot be shipped, and closes it in cleanup()."""

    opened = 0

    def __init__(self):
        self.socket = None
        self.seen = 0

    def initialize(self):
        self.socket = socket.socket()
        Connected.opened += 1

    def cleanup(self):
        self.socket.close()
        Connected.opened -= 1


def test_what_initialize_opens_is_left_out_and_stays_open():
    live = Connected()
    live.initialize()
    live.seen = 5
    before = live.socket
    try:
        fresh, data = moved(live)
        assert set(plain.decode(data)["attributes"]) == {"seen"}
        assert (fresh.seen, fresh.socket) == (5, None)
        assert live.socket is before
        assert live.socket.fileno() >= 0
        assert Connected.opened == 1  # the twin was cleaned up
    finally:
        live.cleanup()


def test_all_other_attributes_are_refused_together_by_path():
    class Careless(Filter):
        def fit(self, x, y=None):
            self.sockets = {"a": [socket.socket()]}
            self.call = lambda: 0
            return self

    careless = Careless().fit([])
    try:
        with pytest.raises(AuthorError) as caught:
            state.capture(careless)
    finally:
        careless.sockets["a"][0].close()
    message = str(caught.value)
    assert "Careless.sockets['a'][0] is a socket.socket" in message
    assert "Careless.call is a builtins.function" in message
    assert "Make it in initialize()" in message


def test_an_initialize_that_fails_does_not_hide_the_refusal():
    class Failing(Filter):
        def initialize(self):
            raise OSError("no")

    failing = Failing()
    failing.thing = object()
    with pytest.raises(AuthorError, match=r"Failing.thing is a builtins.object"):
        state.capture(failing)


def test_what_the_constructor_makes_anew_needs_no_shipping():
    class Equipped(Filter):
        def __init__(self):
            self.log = logging.getLogger("equipped")
            self.lock = threading.Lock()
            self.event = threading.Event()
            self.path = Path("x")
            self.call = lambda x: x
            self.handler = self.predict

        def predict(self, x):
            return x

    assert state.capture(Equipped()) is None


def test_what_was_changed_since_is_refused_even_if_the_constructor_made_one():
    class Model:
        weights = 0

    class Hidden(Filter):
        def __init__(self):
            self.model = Model()

    with pytest.raises(AuthorError, match=r"Hidden.model is a .*Model, which is not plain data"):
        state.capture(Hidden())

    class Touchy:
        def __eq__(self, other):
            raise RuntimeError

        __hash__ = None

    class Worse(Filter):
        def __init__(self):
            self.model = Touchy()

    with pytest.raises(AuthorError, match=r"Worse.model"):
        state.capture(Worse())


def test_plain_where_the_constructor_had_something_else():
    class Replaced(Filter):
        def __init__(self):
            self.source = object()

    replaced = Replaced()
    replaced.source = 3
    fresh, _ = moved(replaced)
    assert fresh.source == 3


@pytest.mark.parametrize("data", [b"", b"\x01", plain.encode({"format": 2}), plain.encode({"format": 1})])
def test_foreign_bytes_are_refused(data):
    with pytest.raises(ValueError):
        state.restore(Scaler(), data)


def test_undisturbed_puts_everything_back():
    target = Scaler().fit(np.array([[1.0]]))
    target.lock = threading.Lock()
    lock = target.lock

    def disturb():
        target._mean[0] = 50
        target.table["x"] = 1
        target.extra = 1
        del target.count
        raise KeyError

    with pytest.raises(KeyError), state.undisturbed([target]):
        disturb()
    assert target._mean.tolist() == [1.0]
    assert target.table == {}
    assert target.count == 0
    assert not hasattr(target, "extra")
    assert target.lock is lock


# --- what plain data cannot say ---------------------------------------------------------------------------------------


class _Level:
    def __init__(self, value: float) -> None:
        self.value = value


class _Keeps(Filter):
    def __init__(self) -> None:
        self.helper = _Level(1.0)
        self.cache: Any = None

    def initialize(self) -> None:
        self.cache = _Level(9.0)


class _Locked(Filter):
    def fit(self, x: Any, y: Any = None) -> None:
        self.source = (one for one in x)


class _Opaque(Filter):
    level: Any = None

    def __getstate__(self) -> Any:
        return (self.level,)

    def __setstate__(self, state: Any) -> None:
        (self.level,) = state


def test_a_helper_that_the_constructor_makes_is_no_state() -> None:
    made = _Keeps()
    made.initialize()
    assert capture(made, pickle.dumps) is None


def test_a_changed_object_is_pickled_and_plain_values_stay_plain() -> None:
    made = _Keeps()
    made.initialize()
    made.helper.value, made.count = 2.0, 7  # type: ignore[attr-defined]
    data = capture(made, pickle.dumps)
    assert data is not None
    assert is_pickled(data)
    assert plain.decode(data)["attributes"] == {"count": 7}
    again = _Keeps()
    restore(again, data, pickle.loads)
    assert (again.helper.value, again.count, again.cache) == (2.0, 7, None)  # type: ignore[attr-defined]


def test_a_pickle_is_neither_written_nor_read_where_nobody_brings_the_means() -> None:
    made = _Keeps()
    made.helper = _Level(2.0)
    with pytest.raises(AuthorError, match=r"_Keeps\.helper is a .*_Level, which is not plain data"):
        capture(made)
    data = capture(made, pickle.dumps)
    assert data is not None
    with pytest.raises(ValueError, match="is a pickle, which is not read here"):
        restore(_Keeps(), data)


def test_what_no_pickle_can_hold_is_refused_by_name() -> None:
    made = _Locked()
    made.fit([1])
    with pytest.raises(AuthorError, match=r"_Locked\.source can be neither plain data nor a pickle"):
        capture(made, pickle.dumps)


def test_an_opaque_state_may_hold_objects() -> None:
    made = _Opaque()
    made.level = _Level(3.0)
    data = capture(made, pickle.dumps)
    assert data is not None
    again = _Opaque()
    restore(again, data, pickle.loads)
    assert again.level.value == 3.0
