"""Generated classes: no meaning-preserving edit changes a fingerprint, every meaning-changing edit does (I1, I3)."""

from __future__ import annotations

import ast
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from publisher.fingerprint import fingerprint

NAMES = ["alpha", "beta", "gamma", "delta"]

atoms = st.one_of(
    st.integers(-9, 9).map(str),
    st.floats(0.25, 9, width=16).map(str),
    st.sampled_from(["x", "self.k", "K", "helper(x)", "'text'", "b'raw'", "None", "True", "{1, 2}", 'f"{x!r:>{K}}"']),
)
expressions = st.recursive(
    atoms,
    lambda inner: st.one_of(
        st.builds("({} + {})".format, inner, inner),
        st.builds("({} if {} else {})".format, inner, inner, inner),
        st.builds("[i for i in ({},)]".format, inner),
        st.builds("(lambda a={}: a)".format, inner),
        st.builds("[{}, {}]".format, inner, inner),
    ),
    max_leaves=5,
)
methods = st.dictionaries(st.sampled_from(NAMES), expressions, min_size=1)


def module(bodies: dict[str, str], constant: str, helper: str) -> ast.Module:
    lines = [f"K = {constant}", "def helper(x):", f"    return {helper}", "class F:", "    k = 1"]
    for name, body in bodies.items():
        lines += [f"    def {name}(self, x):", f"        return {body}"]
    return ast.parse("\n".join(lines))


def of(text: str) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "generated.py"
        path.write_text(text, "utf-8")
        return fingerprint(f"{path}:F").value


def decorated(tree: ast.Module, draw: st.DataObject) -> str:
    """Rewrite a module without changing its meaning: comments, blank lines, docstrings, `pass`, order of methods."""
    cls = tree.body[2]
    assert isinstance(cls, ast.ClassDef)
    cls.body = [cls.body[0], *draw.draw(st.permutations(cls.body[1:]))]
    for node in (tree, cls, *cls.body[1:]):
        body: list[ast.stmt] = node.body  # type: ignore[attr-defined]
        if draw.draw(st.booleans()):
            body.insert(0, ast.Expr(ast.Constant(draw.draw(st.text("abc \u00b5'\"", max_size=9)))))
        if draw.draw(st.booleans()):
            body.append(ast.Pass())
    lines = ast.unparse(ast.fix_missing_locations(tree)).splitlines()
    return "\n".join(f"{line}  # {index}\n" for index, line in enumerate(lines))


@settings(max_examples=40, deadline=None)
@given(
    bodies=methods, constant=atoms.filter(lambda a: "x" not in a and "K" not in a and "self" not in a), data=st.data()
)
def test_meaning_preserving_edits_keep_it(bodies: dict[str, str], constant: str, data: st.DataObject) -> None:
    before = of(ast.unparse(module(bodies, constant, "x")))
    assert of(decorated(module(bodies, constant, "x"), data)) == before


@settings(max_examples=40, deadline=None)
@given(bodies=methods, old=expressions, new=expressions, name=st.sampled_from(NAMES))
def test_another_body_changes_it(bodies: dict[str, str], old: str, new: str, name: str) -> None:
    same = ast.dump(ast.parse(old)) == ast.dump(ast.parse(new))
    one, two = (of(ast.unparse(module({**bodies, name: body}, "3", "x"))) for body in (old, new))
    assert (one == two) is same


@settings(max_examples=25, deadline=None)
@given(bodies=methods, old=expressions, new=expressions)
def test_another_helper_changes_it_exactly_when_it_is_used(bodies: dict[str, str], old: str, new: str) -> None:
    reached = any("helper" in body for body in bodies.values())
    same = ast.dump(ast.parse(old)) == ast.dump(ast.parse(new))
    one, two = (of(ast.unparse(module(bodies, "3", helper))) for helper in (old, new))
    assert (one == two) is (same or not reached)
