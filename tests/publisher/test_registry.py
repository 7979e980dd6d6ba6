"""Every version of a class stays, whole and verified, whoever pushes, is killed or damages something meanwhile."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import obstore
import pytest

from edge_agent import Filter, Input, OnnxModel, Output, Pipeline, Window, rebuild
from edge_agent.contract.digest import BlobRef
from edge_agent.contract.errors import AuthorError, ConfigError, FieldcastError, StoreError, TransportError
from publisher import Registry, Version
from publisher.record import Conflict, Record
from tests.simulators.s3 import INSTALLED, S3Server
from tests.simulators.workshop import Workshop

SCALE = """
    from edge_agent import Filter
    from parts.helper import times

    class Scale(Filter):
        def __init__(self, by=1.0):
            super().__init__(by=by)

        def fit(self, x, y=None):
            self.mean_ = x.mean(axis=0)

        def predict(self, x):
            return times(x, self.by) + getattr(self, "mean_", 0.0)
    """
HELPER = "def times(x, by):\n    return x * by * {}\n"
ONE = np.array([[1.0]])


@pytest.fixture
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workshop]:
    root = tmp_path / "project"
    root.mkdir()
    monkeypatch.setattr(sys, "path", [str(root), *sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    made = Workshop(root)
    yield made
    made.forget()
    rebuild.forget()


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    if not INSTALLED:
        pytest.skip("needs moto[server]")
    with S3Server() as server:
        yield server


@pytest.fixture(params=["directory", "memory", "s3"])
def registry(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    if request.param == "s3":
        return in_bucket(request.getfixturevalue("s3"), monkeypatch)
    return Registry(tmp_path / "store" if request.param == "directory" else "memory:///")


@pytest.fixture
def store(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "store")


def in_bucket(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Registry:
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    return Registry(server.bucket())


def scale(workshop: Workshop, factor: float) -> Any:
    """Return the author's class, whose helper multiplies by `factor`."""
    workshop.write({"scale.py": SCALE, "parts/__init__.py": "", "parts/helper.py": HELPER.format(factor)})
    return workshop.load("scale").Scale


def leave(workshop: Workshop) -> None:
    """Put the author's source out of reach."""
    workshop.forget()
    sys.path.remove(str(workshop.root))


def answer(cls: Any, *parameters: Any) -> float:
    return float(cls(*parameters).predict(ONE)[0, 0])


# --- push and status -------------------------------------------------------------------------------------------------


def test_versions_come_and_stay(workshop: Workshop, registry: Registry) -> None:
    first_class = scale(workshop, 2)
    assert (registry.names(), registry.status(first_class)) == ([], "untracked")
    first = registry.push(first_class, label="v1")
    assert registry.status(first_class) == "synced"
    assert registry.push(first_class) == first, "what is the latest already is not stored again"
    second_class = scale(workshop, 3)
    assert registry.status(second_class) == "out_of_sync"
    second = registry.push(second_class)
    assert registry.names() == ["scale:Scale"]
    assert registry.versions("Scale") == registry.versions("scale:Scale") == [first, second]
    assert registry.latest("Scale") == second
    assert (first.number, first.label, first.tag, second.number) == (1, "v1", "py3-none-any", 2)
    assert first.fingerprint != second.fingerprint
    assert registry.status(scale(workshop, 2)) == "out_of_sync"


def test_a_version_may_become_the_latest_again(workshop: Workshop, registry: Registry) -> None:
    for factor in (2, 3, 2):
        registry.push(scale(workshop, factor))
    one, two, three = registry.versions("Scale")
    assert (one.fingerprint, one.bundle) == (three.fingerprint, three.bundle) != (two.fingerprint, two.bundle)
    assert registry.get("Scale", one.fingerprint[:12]) is registry.get("Scale")


def test_another_label_is_an_entry_of_its_own_for_the_same_bundle(workshop: Workshop, registry: Registry) -> None:
    cls = scale(workshop, 2)
    one, two = registry.push(cls), registry.push(cls, label="good")
    assert (two.number, two.bundle) == (2, one.bundle)
    assert registry.push(cls, label="good") == registry.push(cls) == two
    assert registry.get("Scale", "good") is registry.get("Scale", one.fingerprint)


def test_bound_classes_are_pushed_together_and_once(workshop: Workshop, registry: Registry) -> None:
    cls = scale(workshop, 2)
    assert registry.bind(cls) is cls
    assert registry.names() == []
    (first,) = registry.push_all()
    assert registry.push_all() == registry.versions("Scale") == [first]


def test_binding_may_push_at_once(workshop: Workshop, registry: Registry) -> None:
    cls = scale(workshop, 2)
    assert registry.bind(auto_push=True, label="v1")(cls) is cls
    assert registry.latest("Scale").label == "v1"
    assert registry.status(cls) == "synced"


def test_a_decorator_that_travels_with_its_class_pushes_nothing_where_it_is_loaded(
    workshop: Workshop, tmp_path: Path
) -> None:
    workshop.write(
        {
            "marked.py": f"""
            from edge_agent import Filter
            from publisher import Registry
            registry = Registry({str(tmp_path / "store")!r})

            @registry.bind(auto_push=True)
            class Marked(Filter):
                def predict(self, x):
                    return x
            """
        }
    )
    registry = workshop.load("marked").registry
    before = registry.versions("Marked")
    leave(workshop)
    assert answer(Registry(tmp_path / "store").get("Marked")) == 1.0
    assert registry.versions("Marked") == before
    assert len(before) == 1


@pytest.mark.parametrize("cls", [Window, OnnxModel])
def test_what_every_agent_has_is_not_stored(store: Registry, cls: type[Filter]) -> None:
    with pytest.raises(AuthorError, match="part of every agent"):
        store.push(cls)


def test_what_cannot_be_shipped_is_refused_and_leaves_nothing(
    workshop: Workshop, store: Registry, tmp_path: Path
) -> None:
    workshop.write(
        {
            "bad.py": """
            import importlib
            from edge_agent import Filter
            class Bad(Filter):
                def predict(self, x):
                    return importlib.import_module(input()).f(x)
            """
        }
    )
    with pytest.raises(AuthorError, match=r"bad\.py:6"):
        store.push(workshop.load("bad").Bad)
    assert list((tmp_path / "store").rglob("*")) == []


BY_VALUE = """
import json, sys
from edge_agent import Filter
from publisher import Registry

class Here(Filter):
    def predict(self, x):
        return x * 3

registry = Registry(sys.argv[1])
versions = [registry.push(Here), registry.push(Here)]
print(json.dumps([[one.number, one.fingerprint, one.tag, str(one.bundle.digest)] for one in versions]))
"""


def test_a_class_without_a_module_is_pinned_and_one_version_for_all_processes(
    workshop: Workshop, store: Registry, tmp_path: Path
) -> None:
    workshop.write({"main.py": BY_VALUE})
    said = [json.loads(workshop.run("main.py", str(tmp_path / "store"), seed=seed)) for seed in ("1", "2")]
    (first, *rest) = said[0] + said[1]
    assert rest == [first] * 3, "its bytes may differ each time, what it is does not"
    assert first[2].startswith("cp")
    assert answer(store.get("Here")) == 3.0
    blob(tmp_path / "store", store.latest("Here").bundle).write_bytes(b"damaged")
    workshop.run("main.py", str(tmp_path / "store"))
    assert answer(Registry(tmp_path / "store").get("Here")) == 3.0


# --- get -------------------------------------------------------------------------------------------------------------


def test_two_versions_live_in_one_process(workshop: Workshop, registry: Registry) -> None:
    versions = [registry.push(scale(workshop, factor), label=f"v{factor}") for factor in (2, 3)]
    leave(workshop)
    two, three, back = (registry.get("Scale", which) for which in ("v2", versions[1].fingerprint[:10], "v2"))
    assert [answer(cls) for cls in (two, three, back)] == [2.0, 3.0, 2.0]
    assert two is back is not three
    assert registry.get("scale:Scale") is three


def test_a_prefix_must_say_which(workshop: Workshop, store: Registry) -> None:
    versions = [store.push(scale(workshop, factor)) for factor in range(17)]
    firsts = [one.fingerprint[0] for one in versions]
    shared = next(first for first in firsts if firsts.count(first) > 1)  # 17 of 16 digits
    with pytest.raises(AuthorError, match=f"'{shared}' names several versions; there is "):
        store.get("Scale", shared)
    assert answer(store.get("Scale", versions[5].fingerprint)) == 5.0


def test_a_label_on_two_versions_does_not_say_which(workshop: Workshop, store: Registry) -> None:
    for factor in (2, 3):
        store.push(scale(workshop, factor), label="good")
    with pytest.raises(AuthorError, match=r"'good' names several versions; there is [0-9a-f]{12} \(good\), "):
        store.get("Scale", "good")


def test_what_is_not_there_is_said_with_what_is(workshop: Workshop, store: Registry) -> None:
    with pytest.raises(AuthorError, match="'Scale' names no class here; there is none yet"):
        store.versions("Scale")
    made = store.push(scale(workshop, 2))
    with pytest.raises(AuthorError, match=f"'nope' names no version; there is {made.fingerprint[:12]}"):
        store.get("Scale", "nope")
    with pytest.raises(AuthorError, match="'Other' names no class here; there is scale:Scale"):
        store.get("Other")


def test_classes_of_one_name_are_told_apart_by_module(workshop: Workshop, store: Registry) -> None:
    store.push(scale(workshop, 2))
    workshop.write({"more/__init__.py": "", "more/scale.py": SCALE, "parts/helper.py": HELPER.format(5)})
    store.push(workshop.load("more.scale").Scale)
    assert store.names() == ["more.scale:Scale", "scale:Scale"]
    with pytest.raises(AuthorError, match=r"several classes here; there is more\.scale:Scale, scale:Scale"):
        store.get("Scale")
    assert answer(store.get("scale:Scale")) == 2.0
    assert answer(store.get("more.scale:Scale")) == 5.0


def test_a_nested_class_has_its_full_name(workshop: Workshop, store: Registry) -> None:
    workshop.write(
        {"outer.py": textwrap.dedent(SCALE).replace("class", "class Outer:\n  class").replace("\n    ", "\n      ")}
    )
    workshop.write({"parts/__init__.py": "", "parts/helper.py": HELPER.format(7)})
    store.push(workshop.load("outer").Outer.Scale)
    assert store.names() == ["outer:Outer.Scale"]
    assert answer(store.get("Outer.Scale")) == 7.0


def test_a_class_without_its_source_is_fitted_and_pushed_again(
    workshop: Workshop, registry: Registry, tmp_path: Path
) -> None:
    first = registry.push(scale(workshop, 2))
    leave(workshop)
    cls = registry.get("Scale")
    fitted = Pipeline("p", [cls(0.5)], input=Input(["x"]), output=Output(["y"])).fit([[1.0], [5.0]])
    assert registry.status(cls) == "synced"
    assert registry.push(cls) == first
    elsewhere = Registry(tmp_path / "elsewhere")
    again = elsewhere.push(cls)
    assert (again.fingerprint, again.bundle) == (first.fingerprint, first.bundle)
    manifest = elsewhere.save(fitted)
    assert (manifest["stages"][0]["fingerprint"], manifest["stages"][0]["bundle"]["digest"]) == (
        first.fingerprint,
        str(first.bundle.digest),
    )
    assert elsewhere.load(manifest).predict(ONE).tolist() == fitted.predict(ONE).tolist() == [[4.0]]


# --- pipelines -------------------------------------------------------------------------------------------------------

ELSEWHERE = """
import json, os, sys
import numpy as np
from publisher import Registry

assert not any(name in sys.modules for name in ("scale", "parts"))
pipeline = Registry(sys.argv[1]).load(open("manifest.json").read())
answer = pipeline.predict(np.load("x.npy"))
np.save("y.npy", answer)
assert not any(name in sys.modules for name in ("scale", "parts"))
"""


def fitted(workshop: Workshop) -> Pipeline:
    made = Pipeline("p", [Window(4, 2), scale(workshop, 1 / 3)(0.1)], input=Input(["x"]), output=Output(["a"]))
    x = np.random.default_rng(1).normal(size=(40, 1))
    return made.fit(x)


def test_a_pipeline_predicts_bit_for_bit_the_same_in_a_fresh_process_elsewhere(
    workshop: Workshop, registry: Registry, tmp_path: Path
) -> None:
    made = Pipeline("p", [scale(workshop, 1 / 3)(0.1)], input=Input(["x"]), output=Output(["y"]))
    x = np.random.default_rng(1).normal(size=(40, 1))
    made.fit(x)
    manifest = registry.save(made)
    assert json.loads(json.dumps(manifest)) == manifest
    leave(workshop)
    for form in (manifest, json.dumps(manifest), json.dumps(manifest).encode()):
        assert np.array_equal(registry.load(form).predict(x), made.predict(x))
    if registry._record.location.startswith("memory"):
        return  # no other process sees it
    away = Workshop(tmp_path / "away")
    away.write({"elsewhere.py": ELSEWHERE, "manifest.json": json.dumps(manifest)})
    np.save(away.root / "x.npy", x)
    away.run("elsewhere.py", registry._record.location, seed="random")
    assert np.load(away.root / "y.npy").tobytes() == made.predict(x).tobytes()


def test_a_pipeline_goes_to_a_manifest_and_back_by_its_own_methods(workshop: Workshop, store: Registry) -> None:
    made = fitted(workshop)
    manifest = made.to_manifest(store)
    assert manifest == store.save(made)
    for given in (manifest, json.dumps(manifest), json.dumps(manifest).encode()):
        again = Pipeline.from_manifest(given, store)
        assert [name for name, _ in again.stages] == [name for name, _ in made.stages]


def test_a_single_filter_is_saved_as_well(workshop: Workshop, store: Registry) -> None:
    manifest = store.save(scale(workshop, 2)(4.0))
    leave(workshop)
    assert store.load(manifest).predict(ONE).tolist() == [[8.0]]


# --- damage ----------------------------------------------------------------------------------------------------------


def blob(store: Path, ref: BlobRef) -> Path:
    return store / "blob" / ref.digest.hex[:2] / ref.digest.hex


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "tampered": lambda data: data[:60] + bytes([data[60] ^ 1]) + data[61:],
    "truncated": lambda data: data[:-1],
    "emptied": lambda data: b"",
    "longer": lambda data: data + b"x",
    "swapped": lambda data: bytes(len(data)),
}


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_bundle_is_refused_by_name_and_the_others_stay(workshop: Workshop, tmp_path: Path, how: str) -> None:
    store = Registry(tmp_path / "store")
    good, bad = (store.push(scale(workshop, factor)) for factor in (2, 3))
    file = blob(tmp_path / "store", bad.bundle)
    file.write_bytes(DAMAGE[how](file.read_bytes()))
    with pytest.raises(StoreError) as caught:
        store.get("Scale")
    assert str(caught.value).startswith(f"scale:Scale number 2 ({bad.fingerprint[:12]}): ")
    assert answer(store.get("Scale", good.fingerprint)) == 2.0
    with pytest.raises(StoreError, match="number 2"):
        store.copy_to(Registry("memory:///"))
    assert store.push(scale(workshop, 3)) == bad, "pushing it again heals it"
    assert answer(store.get("Scale")) == 3.0


@pytest.mark.parametrize("how", DAMAGE)
def test_every_damaged_blob_of_a_pipeline_is_refused_by_name(workshop: Workshop, tmp_path: Path, how: str) -> None:
    store = Registry(tmp_path / "store")
    manifest = store.save(fitted(workshop))
    stage = manifest["stages"][1]
    for part in ("bundle", "state"):
        ref = BlobRef(**{**stage[part], "digest": BlobRef.of(b"").digest.__class__(stage[part]["digest"])})
        file = blob(tmp_path / "store", ref)
        whole = file.read_bytes()
        file.write_bytes(DAMAGE[how](whole))
        with pytest.raises(StoreError, match=f"{ref.digest.hex}|expected up to"):
            store.load(manifest)
        file.write_bytes(whole)
    assert store.load(manifest).name == "p"


def test_two_bundles_exchanged_for_each_other_are_refused(workshop: Workshop, tmp_path: Path) -> None:
    store = Registry(tmp_path / "store")
    files = [blob(tmp_path / "store", store.push(scale(workshop, factor)).bundle) for factor in (2, 3)]
    contents = [file.read_bytes() for file in files]
    for file, content in zip(files, reversed(contents), strict=True):
        file.write_bytes(content)
    for version in store.versions("Scale"):
        with pytest.raises(StoreError, match=f"{version.fingerprint[:12]}"):
            store.get("Scale", version.fingerprint)


def test_damage_on_s3_is_refused_too(workshop: Workshop, s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = in_bucket(s3, monkeypatch)
    made = registry.push(scale(workshop, 2))
    hexed = made.bundle.digest.hex
    obstore.put(registry._record._store, f"blob/{hexed[:2]}/{hexed}", bytes(made.bundle.size), mode="overwrite")
    with pytest.raises(StoreError, match=f"scale:Scale number 1 .* {made.bundle.digest} .* is damaged"):
        registry.get("Scale")


def test_an_entry_that_points_at_another_bundle_is_refused(workshop: Workshop, tmp_path: Path) -> None:
    store = Registry(tmp_path / "store")
    one, two = (store.push(scale(workshop, factor)) for factor in (2, 3))
    workshop.write({"other.py": SCALE.replace("Scale", "Other")})
    other = store.push(workshop.load("other").Other)
    for lie in (one, other):
        entry = tmp_path / "store" / "class/scale/Scale/2.json"
        content = json.loads(entry.read_text())
        content["bundle"] = {"digest": str(lie.bundle.digest), "size": lie.bundle.size}
        entry.write_text(json.dumps(content))
        with pytest.raises(StoreError, match=rf"number 2 \({two.fingerprint[:12]}\): its entry points at"):
            store.get("Scale")


ENTRIES: dict[str, bytes | None] = {
    "empty": b"",
    "half": b'{"format":1,"target":"scale:Sc',
    "no JSON": b"\x00\xff",
    "no text": b'"\xff"',
    "another number": None,
    "too big": b" " * 70_000,
    "of the future": b'{"format":2}',
    "deep": b"[" * 20_000,
}


@pytest.mark.parametrize("case", ENTRIES)
def test_a_damaged_entry_hides_itself_alone(
    workshop: Workshop, tmp_path: Path, case: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = Registry(tmp_path / "store")
    one, _, three = (store.push(scale(workshop, factor), label=f"v{factor}") for factor in (2, 3, 4))
    folder = tmp_path / "store" / "class/scale/Scale"
    (folder / "2.json").write_bytes(ENTRIES[case] or (folder / "1.json").read_bytes())
    assert store.versions("Scale") == [one, three]
    assert "class=scale:Scale number=2" in caplog.text
    assert answer(store.get("Scale", "v2")) == 2.0
    (folder / "3.json").write_bytes(b"")
    assert store.latest("Scale") == one
    assert store.push(scale(workshop, 4)).number == 4, "a taken number is never used again"
    assert answer(store.get("Scale")) == 4.0


def test_without_a_readable_entry_there_is_no_latest(workshop: Workshop, tmp_path: Path) -> None:
    store = Registry(tmp_path / "store")
    store.push(scale(workshop, 2))
    (tmp_path / "store" / "class/scale/Scale/1.json").write_bytes(b"")
    assert store.names() == ["scale:Scale"]
    with pytest.raises(AuthorError, match="no version of Scale is readable: push it again"):
        store.get("Scale")
    assert store.status(scale(workshop, 2)) == "untracked"


def test_what_does_not_belong_there_is_not_seen(workshop: Workshop, tmp_path: Path) -> None:
    store = Registry(tmp_path / "store")
    made = store.push(scale(workshop, 2))
    for name in ("class/x", "class/scale/y", "class/scale/Scale/deeper/1.json", "class/other/Thing/notes.txt"):
        (tmp_path / "store" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "store" / name).write_text("?")
    for name in ("01.json", "-1.json", "one.json", "2.json.bak", "3.json#1", "\u00b2.json", "0.json"):
        (tmp_path / "store" / "class/scale/Scale" / name).write_text("?")
    assert store.names() == ["scale:Scale"]
    assert store.versions("Scale") == [made]
    assert store.push(scale(workshop, 3)).number == 2


# --- several at once, and killed -------------------------------------------------------------------------------------

PUSHES = """
import importlib, json, sys
from pathlib import Path
from publisher import Registry

where, first, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
registry = Registry(where)
print("ready", flush=True)
for number in range(first, first + count):
    sys.stdin.readline()
    Path("counted.py").write_text(
        "from edge_agent import Filter\\n"
        "class Counted(Filter):\\n    def predict(self, x):\\n"
        f"        return x * {number}\\n" + "#" * (number % 7)
    )
    sys.modules.pop("counted", None)
    importlib.invalidate_caches()
    print(registry.push(importlib.import_module("counted").Counted).fingerprint, flush=True)
"""


def pusher(root: Path, location: str, first: int, count: int, **environment: str) -> subprocess.Popen[str]:
    """Start a process that pushes versions `first`, `first + 1`, …, one for each line that it is sent."""
    root.mkdir(exist_ok=True)
    (root / "pushes.py").write_text(PUSHES)
    return subprocess.Popen(
        [sys.executable, "-B", "pushes.py", location, str(first), str(count)],
        cwd=root,
        env={**os.environ, **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ready(one: subprocess.Popen[str]) -> None:
    """Wait until it can push."""
    assert one.stdout is not None
    assert one.stdout.readline() == "ready\n", one.communicate()


def push_on(one: subprocess.Popen[str], times: int) -> None:
    """Have it push so often."""
    assert one.stdin is not None
    one.stdin.write("\n" * times)
    one.stdin.flush()


def pushed(one: subprocess.Popen[str]) -> str:
    """Wait for its next push; return the fingerprint."""
    assert one.stdout is not None
    return one.stdout.readline().strip() or str(one.communicate())


def all_are_whole(registry: Registry) -> list[Version]:
    """Load every version that is visible; none may be half."""
    found = registry.versions("Counted") if registry.names() else []
    for one in found:
        assert issubclass(registry.get("Counted", one.fingerprint), Filter)
    assert [one.number for one in found] == list(range(1, len(found) + 1))
    return found


@pytest.mark.parametrize("kind", ["directory", "s3"])
def test_two_that_push_at_once_lose_nothing(
    tmp_path: Path, kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 50 if kind == "directory" else 15
    registry = (
        Registry(tmp_path / "store") if kind == "directory" else in_bucket(request.getfixturevalue("s3"), monkeypatch)
    )
    both = [pusher(tmp_path / str(first), registry._record.location, first, count) for first in (0, 1000)]
    for one in both:
        ready(one)
    fingerprints = set()
    for _ in range(count):  # both start each push at the same moment, however fast each of them is
        for one in both:
            push_on(one, 1)
        fingerprints |= {pushed(one) for one in both}
    said = [one.communicate(timeout=30) for one in both]
    assert [one.returncode for one in both] == [0, 0], said
    found = all_are_whole(registry)
    assert {one.fingerprint for one in found} == fingerprints
    assert len(found) == 2 * count


KILLED = """
import os, signal, sys
import obstore

place, left = sys.argv[4], int(sys.argv[5])
put, replace, link = obstore.put, os.replace, os.link

def dying(*args, **kwargs):
    global left
    left -= 1
    if place == "before" and left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    done = put(*args, **kwargs)
    if place == "after" and left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return done

obstore.put = dying
"""


@pytest.mark.parametrize("left", range(1, 7))
@pytest.mark.parametrize("place", ["before", "after"])
def test_a_push_killed_around_each_of_its_writes_leaves_only_whole_versions(
    tmp_path: Path, place: str, left: int
) -> None:
    """Three pushes are six writes: bundle, entry, bundle, entry, bundle, entry."""
    (tmp_path / "desk").mkdir()
    (tmp_path / "desk" / "killed.py").write_text(KILLED + PUSHES)
    command = [sys.executable, "-B", "killed.py", str(tmp_path / "store"), "0", "3", place, str(left)]
    done = subprocess.run(command, cwd=tmp_path / "desk", input="\n", capture_output=True, text=True, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr
    found = all_are_whole(Registry(tmp_path / "store"))
    told = done.stdout.split()[1:]
    assert [one.fingerprint for one in found][: len(told)] == told, "what was told is there"
    assert len(found) == (left - (place == "before")) // 2


def test_a_push_killed_at_any_moment_leaves_only_whole_versions(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "store")
    told: list[str] = []
    for turn in range(10):
        one = pusher(tmp_path / "desk", str(tmp_path / "store"), 100 * turn, 90)
        ready(one)
        push_on(one, 90)
        assert one.stdout is not None
        told.append(one.stdout.readline().strip())  # it is under way
        time.sleep(turn * 0.003)  # the moment is the point; no outcome depends on it
        one.kill()
        told += one.communicate()[0].split()
        known = {one.fingerprint for one in all_are_whole(registry)}
        assert set(told) <= known
    assert len(told) >= 10
    assert len(known) <= len(told) + 10, "at most the last of each was not told"


def test_who_always_loses_gives_up(workshop: Workshop, store: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    create = Record.create

    def lose(self: Record, path: str, data: bytes) -> None:
        if path.startswith("class/"):
            raise Conflict(path)
        create(self, path, data)

    monkeypatch.setattr(Record, "create", lose)
    with pytest.raises(StoreError, match="scale:Scale: 200 pushes by others came in between: try again"):
        store.push(scale(workshop, 2))


# --- other stores ----------------------------------------------------------------------------------------------------


def filled(workshop: Workshop, registry: Registry) -> Registry:
    for factor, label in ((2, "old"), (3, ""), (2, "new")):
        registry.push(scale(workshop, factor), label=label)
    workshop.write({"other.py": SCALE.replace("Scale", "Other")})
    registry.push(workshop.load("other").Other)
    return registry


def test_a_copy_has_the_same_digests_wherever_it_lies(
    workshop: Workshop, s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there, back = filled(workshop, Registry(tmp_path / "a")), in_bucket(s3, monkeypatch), Registry(tmp_path / "b")
    assert (here.copy_to(there), there.copy_to(back)) == (4, 4)
    for name in here.names():
        assert here.versions(name) == there.versions(name) == back.versions(name)
    files = [
        {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}
        for root in (tmp_path / "a", tmp_path / "b")
    ]
    assert files[0] == files[1]
    assert (here.copy_to(there), there.copy_to(here)) == (0, 0)
    leave(workshop)
    assert answer(there.get("Scale", "new")) == 2.0


def test_a_copy_adds_to_what_is_there(workshop: Workshop, store: Registry) -> None:
    other = Registry("memory:///")
    mine = other.push(scale(workshop, 9))
    filled(workshop, store)
    assert store.copy_to(other) == 4
    assert [one.number for one in other.versions("Scale")] == [1, 2, 3, 4]
    assert other.versions("Scale")[0] == mine
    assert other.latest("Scale").fingerprint == store.latest("Scale").fingerprint


def test_a_damaged_entry_does_not_stop_a_copy(workshop: Workshop, tmp_path: Path) -> None:
    store = filled(workshop, Registry(tmp_path / "store"))
    (tmp_path / "store" / "class/scale/Scale/2.json").write_bytes(b"")
    other = Registry("memory:///")
    assert store.copy_to(other) == 3
    assert [one.label for one in other.versions("Scale")] == ["old", "new"]


def test_a_store_that_cannot_be_used_says_who_must_act(
    workshop: Workshop, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    cls, registry = scale(workshop, 2), in_bucket(s3, monkeypatch)
    assert registry.names() == []
    missing = Registry("s3://no-such-bucket/registry")
    with pytest.raises(ConfigError, match="no such bucket"):
        missing.push(cls)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(TransportError) as caught:
        Registry("s3://bucket-1/registry").push(cls)
    assert isinstance(caught.value, FieldcastError)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("form", ["{}", "file://{}"])
def test_a_directory_has_two_spellings(workshop: Workshop, tmp_path: Path, form: str) -> None:
    place = tmp_path / "with space"
    registry = Registry(form.format(str(place).replace(" ", "%20") if "file" in form else place))
    registry.push(scale(workshop, 2))
    assert (place / "class/scale/Scale/1.json").is_file()
