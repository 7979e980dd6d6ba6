"""Classes that no file says are shipped by value: to one Python minor version, and under an identity of their own."""

from __future__ import annotations

import json
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_agent import Filter, Input, Output, Pipeline, rebuild
from edge_agent.contract.bundle import read_bundle
from edge_agent.contract.digest import Digest
from edge_agent.contract.errors import AuthorError, UpdateRejected, WorkerFailed
from edge_agent.contract.pinned import PINNED_MEMBER, unwrap_pinned, wrap_pinned
from edge_agent.runtime.namespace import Mount
from edge_agent.runtime.pinned import INTERPRETER
from publisher.packaging import Package, pack
from publisher.packing.rebuild import from_manifest, to_manifest
from tests.simulators.workshop import PACKING, Shelf, Workshop

HEAD = "from edge_agent import Filter, Input, Output, Pipeline\n"
TAIL = '\npipeline = Pipeline("p", [{made}], input=Input(["x"]), output=Output(["y"]), self_test=[[1.0], [2.0]])\n'
TOOLS = {
    "tools.py": """
        from deep import GAIN
        class Bias:
            def __init__(self, value):
                self.value = value
        def amplify(x):
            return x * GAIN
        """,
    "deep.py": "GAIN = 3.0\n",
    "late.py": "def shift(x):\n    return x + 1\n",
}
SCRIPT = """
import dataclasses, enum
import tools

K = 2.0

class Mode(enum.Enum):
    UP = 1

@dataclasses.dataclass
class Learned:
    level: float
    mode: Mode = Mode.UP

def double(x):
    return x * K

class Smooth(Filter):
    kinds = {"a", "b", "c"}

    def __init__(self, gain=1.0):
        super().__init__(gain=gain)

    def fit(self, x, y=None):
        self.learned_ = Learned(float(x.mean()))
        self.bias_ = tools.Bias(0.5)
        self.me_ = [self]

    def predict(self, x):
        import late, pickle
        again = pickle.loads(pickle.dumps(self.learned_))
        assert again == self.learned_ and type(again) is Learned and again.mode is Mode.UP and self.me_[0] is self
        return late.shift(tools.amplify(double(x))) * self.gain + self.learned_.level + self.bias_.value
"""
FITTED = TAIL.format(made="Smooth(2.0)") + "pipeline.fit([[1.0], [2.0]])\n"


@pytest.fixture
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workshop]:
    root = tmp_path / "project"
    root.mkdir()
    monkeypatch.syspath_prepend(str(root))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    made = Workshop(root)
    yield made
    made.forget()


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    yield
    rebuild.forget()


def rehearse(out: Path, python: str = sys.executable) -> dict[str, Any]:
    command = [python, "-I", "-m", "edge_agent.rehearsal", str(out)]
    done = subprocess.run(command, cwd="/", capture_output=True, text=True, timeout=120, check=False)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def packed(cls: type, **options: Any) -> Package:
    return pack(Pipeline("p", [cls()], input=Input(["x"]), output=Output(["y"])), **options)


def executed(source: str, name: str = "__fieldcast_exec__") -> Any:
    """Return what a prompt or notebook has: definitions whose text is nowhere."""
    module = types.ModuleType(name)
    exec(compile(HEAD + source, "<prompt>", "exec"), vars(module))
    return module


def test_a_class_of_main_with_local_modules_and_learned_objects_runs_elsewhere(
    workshop: Workshop, tmp_path: Path
) -> None:
    workshop.write({**TOOLS, "script.py": HEAD + SCRIPT + FITTED + PACKING})
    said = json.loads(workshop.run("script.py", str(tmp_path / "out")))
    answer = rehearse(tmp_path / "out")
    assert answer["ok"], answer
    assert answer["words"].endswith("2 rows in, 2 out, equal within 1e-04")
    assert said["stages"][0][2] == f"{INTERPRETER}-none-any"
    assert "lives in __main__" in said["warnings"][0]
    assert "--require-portable" in said["warnings"][0]
    assert any(text.startswith("cloudpickle") for text in said["requires"])


def test_every_process_and_hash_seed_gives_the_same_identity(workshop: Workshop, tmp_path: Path) -> None:
    workshop.write({**TOOLS, "script.py": HEAD + SCRIPT + FITTED + PACKING})
    runs = [("a", "0"), ("b", "0"), ("c", "77")]
    said = [json.loads(workshop.run("script.py", str(tmp_path / out), seed=seed))["stages"] for out, seed in runs]
    assert said[0] == said[1], "the bytes too, under one hash seed: a pickle writes sets as they lie"
    assert said[0][0][0] == said[2][0][0]


EDITS = {
    "method": ("* self.gain", "* self.gain * 2"),
    "helper": ("return x * K", "return x * K * 1"),
    "constant": ("K = 2.0", "K = 2.5"),
    "class attribute": ('"c"}', '"d"}'),
    "default": ("gain=1.0", "gain=1.5"),
    "enum": ("UP = 1", "UP = 2"),
}


def test_comments_do_not_count_and_every_edit_does(workshop: Workshop, tmp_path: Path) -> None:
    def identity(name: str, source: str, tools: str = TOOLS["deep.py"]) -> str:
        workshop.write({**TOOLS, "deep.py": tools, f"{name}.py": HEAD + source + FITTED + PACKING})
        found: str = json.loads(workshop.run(f"{name}.py", str(tmp_path / name)))["stages"][0][0]
        return found

    before = identity("script", SCRIPT)
    assert identity("other", SCRIPT.replace("def double(x):", "# doubles\n\ndef double( x ):")) == before
    found = {edit: identity(f"edit{place}", SCRIPT.replace(*pair)) for place, (edit, pair) in enumerate(EDITS.items())}
    found["local module two away"] = identity("far", SCRIPT, "GAIN = 4.0\n")
    assert len({before, *found.values()}) == len(found) + 1, found


def test_an_identity_without_text_sees_code_values_and_closures() -> None:
    def value(source: str) -> str:
        return packed(executed(source).Odd).manifest.stages[0].fingerprint

    body = "class Odd(Filter):\n    def predict(self, x):\n        return "
    base = "def make(k):\n" + "    " + body.replace("\n", "\n    ") + "x + k\n    return Odd\n"
    plain = "K = {k}\n" + body + "[(lambda v: v + K)(one) for one in x]\n"
    seen = [
        value(base + "Odd = make(1)"),
        value(base + "Odd = make(2)"),
        value(plain.format(k=1)),
        value(plain.format(k=2)),
        value(plain.format(k="frozenset({1, 2})")),
        value("Odd = type('Odd', (Filter,), {'predict': lambda self, x: x})"),
        value("Odd = type('Odd', (Filter,), {'predict': lambda self, x: x + 1})"),
    ]
    assert len(set(seen)) == len(seen)
    assert value("\n\n# moved\n" + base + "Odd = make(1)") == seen[0]


def test_a_class_made_in_a_function_takes_its_closure_and_its_module_along(workshop: Workshop) -> None:
    workshop.write(
        {
            **TOOLS,
            "factory.py": """
            from edge_agent import Filter
            import tools
            def double(x):
                return x * 2
            def make(extra):
                class Local(Filter):
                    def predict(self, x):
                        return tools.amplify(double(x)) + extra
                return Local
            """,
        }
    )
    shelf = Shelf()
    made = Pipeline("p", [workshop.load("factory").make(10)()])
    manifest = to_manifest(made, keep=shelf.keep)
    workshop.forget()
    again = from_manifest(manifest, shelf)
    assert again.predict([[1.0]]).tolist() == [[16.0]] == made.predict([[1.0]]).tolist()
    assert type(again["local"]) is not type(made["local"])


def test_a_patched_class_travels_as_it_is_and_not_as_its_source(workshop: Workshop) -> None:
    source = "from edge_agent import Filter\nK = 1\nclass A(Filter):\n    def predict(self, x):\n        return x\n"
    workshop.write({"mod.py": source})
    module = workshop.load("mod")
    untouched = packed(module.A).manifest.stages[0]
    module.A.predict = lambda self, x: x * 7 + module.K
    shelf = Shelf()
    package = packed(module.A)
    assert "was patched" in package.warnings[0]
    manifest = to_manifest(module.A(), keep=shelf.keep)
    assert manifest["stages"][0]["fingerprint"] == package.manifest.stages[0].fingerprint != untouched.fingerprint
    workshop.forget()
    assert from_manifest(json.dumps(manifest), shelf).predict([[1.0]]).tolist() == [[8.0]]


def test_require_portable_refuses_with_the_reason() -> None:
    with pytest.raises(AuthorError, match=r"stage 'odd' cannot be portable: .*Odd has no source file"):
        packed(executed("class Odd(Filter):\n    def predict(self, x):\n        return x").Odd, require_portable=True)


REFUSED = {
    "open file": ("FILE = open('/dev/null')", "return FILE.read()", "reaches what cannot be shipped by value"),
    "place": ("", "return __file__", "reads __file__"),
    "relative import": ("", "from . import sibling", r"imports \."),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_go_by_value_is_refused_by_name(case: str) -> None:
    before, line, words = REFUSED[case]
    module = executed(f"{before}\nclass Odd(Filter):\n    def predict(self, x):\n        {line}")
    with pytest.raises(AuthorError, match=words):
        packed(module.Odd)
    for value in vars(module).values():
        if hasattr(value, "close"):
            value.close()


def test_declared_data_files_need_a_file_to_be_beside(tmp_path: Path) -> None:
    with pytest.raises(AuthorError, match="names files beside a source file"):
        packed(executed("class Odd(Filter):\n    data = ['a.csv']\n    def predict(self, x):\n        return x").Odd)


def test_a_refusal_in_a_local_module_stops_the_class(workshop: Workshop) -> None:
    workshop.write({"chooser.py": "import importlib\ndef f(n):\n    return importlib.import_module(n)\n"})
    module = executed("import chooser\nclass Odd(Filter):\n    def predict(self, x):\n        return chooser.f('json')")
    with pytest.raises(AuthorError, match=r"chooser\.py:3"):
        packed(module.Odd)


# --- on the device ---------------------------------------------------------------------------------------------------


def _unpacked(tmp_path: Path, member: bytes) -> Path:
    root = tmp_path / "bundle"
    root.mkdir()
    (root / PINNED_MEMBER).write_bytes(member)
    return root


def test_another_interpreters_class_is_refused_before_a_byte_is_unpickled(tmp_path: Path) -> None:
    bomb = b"cos\n_exit\n(I9\ntR."  # would end this process
    with (
        Mount(_unpacked(tmp_path, wrap_pinned("cp39", bomb)), "bomb") as mount,
        pytest.raises(UpdateRejected) as caught,
    ):
        mount.load("__main__:X")
    assert "pinned to cp39" in str(caught.value)


def test_a_member_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UpdateRejected, match="does not say what it is"):
        unwrap_pinned(b"\x80\x05.", INTERPRETER)
    root = _unpacked(tmp_path, wrap_pinned(INTERPRETER, b"\x80\x05}."))
    with Mount(root, "none") as mount, pytest.raises(WorkerFailed, match="holds no class"):
        mount.load("__main__:X")


def test_a_manifest_that_hides_a_pinned_bundle_behind_another_tag_is_refused() -> None:
    shelf = Shelf()
    odd = executed("class Odd(Filter):\n    def predict(self, x):\n        return x").Odd
    manifest = to_manifest(odd(), keep=shelf.keep)
    for tag in ("py3-none-any", "cp39-none-any"):
        manifest["stages"][0]["tag"] = tag
        with pytest.raises(WorkerFailed, match="it is not" if tag.startswith("py3") else "pinned to the other"):
            from_manifest(manifest, shelf)


def test_the_bundle_is_a_wheel_for_one_interpreter() -> None:
    package = packed(executed("class Odd(Filter):\n    def predict(self, x):\n        return x").Odd)
    ref = package.manifest.stages[0].bundle
    assert ref is not None
    bundle = read_bundle(package.blobs[Digest(str(ref.digest))])
    assert bundle.tag == f"{INTERPRETER}-none-any"
    assert bundle.requires_python == f"=={sys.version_info.major}.{sys.version_info.minor}.*"
    assert [*bundle.members] == [PINNED_MEMBER]
    assert issubclass(Filter, object)


def test_what_the_state_reaches_goes_along_even_where_the_class_does_not_name_it() -> None:
    module = executed(
        "class Hidden:\n    def __init__(self, v):\n        self.v = v\n"
        "class Odd(Filter):\n    def predict(self, x):\n        return x * self.held.v\n"
    )
    made = module.Odd()
    made.held = module.Hidden(4.0)
    shelf = Shelf()
    again = from_manifest(to_manifest(made, keep=shelf.keep), shelf)
    assert again.predict([[2.0]]).tolist() == [[8.0]]
    assert type(again["odd"].held) is not module.Hidden  # type: ignore[union-attr]


def test_two_things_of_one_name_are_refused() -> None:
    source = "class Hidden:\n    pass\nclass Odd(Filter):\n    def predict(self, x):\n        return x"
    one, two = executed(source), executed(source)
    made = one.Odd()
    made.held = [one.Hidden(), two.Hidden()]
    with pytest.raises(AuthorError, match="two different things called"):
        to_manifest(made)


def test_a_pinned_class_is_loaded_fitted_and_packed_again() -> None:
    body = "class Odd(Filter):\n    def fit(self, x):\n        self.m = x.mean()\n"
    made = executed(f"{body}    def predict(self, x):\n        return x + self.m").Odd()
    shelf = Shelf()
    manifest = to_manifest(Pipeline("p", [made]).fit([[1.0]]), keep=shelf.keep)
    again = from_manifest(manifest, shelf)
    first, second = manifest["stages"][0], to_manifest(again.fit([[5.0]]))["stages"][0]
    same = ("bundle", "fingerprint", "tag", "target")
    assert [second[key] for key in same] == [first[key] for key in same]
    assert second["state"] != first["state"]
    with pytest.raises(AuthorError, match="pinned to this Python"):
        pack(again, require_portable=True, declared=False)


def test_enums_cached_properties_and_installed_modules_travel() -> None:
    module = executed(
        "import collections.abc, enum, functools, msgspec\n"
        "class Mode(enum.Enum):\n    UP = 3\n    def shout(self):\n        return self.name + '!'\n"
        "class Odd(Filter):\n    @functools.cached_property\n    def level(self):\n        return Mode.UP\n"
        "    def predict(self, x):\n        assert self.level.shout() == 'UP!' and self.level is Mode(3)\n"
        "        assert isinstance([], collections.abc.Sequence)\n        return msgspec.json.decode('[[7]]')\n"
    )
    shelf = Shelf()
    manifest = to_manifest(module.Odd(), keep=shelf.keep)
    assert from_manifest(manifest, shelf).predict([[1.0]]) == [[7]]
    assert any(text.startswith("msgspec") for text in manifest["requires"])
