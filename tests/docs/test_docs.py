"""The documents say what the code says: generated tables are fresh, links lead somewhere, named tests exist."""

from __future__ import annotations

import ast
import functools
import importlib.util
import re
from pathlib import Path
from types import ModuleType

import click
import msgspec
import pytest

from edge_agent import events
from edge_agent.contract import archive, dsse, export, manifest, messages, reports
from edge_agent.contract.digest import BlobRef
from edge_agent.contract.errors import Blame, Reason, ReasonCode
from edge_agent.contract.verification import Floor, Operator, Reply, Request
from edge_agent.runtime import wire

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
OTHERS = ("CHANGELOG.md", "README.md", "firmware_images/README.md", "systemd/README.md", "examples/activity/README.md")
PAGES = sorted([*DOCS.rglob("*.md"), *(ROOT / name for name in OTHERS if (ROOT / name).is_file())])
RECORDS = sorted((DOCS / "adr").glob("[0-9]*.md"))
TESTS = sorted((ROOT / "tests").rglob("test_*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def prose(text: str) -> str:
    """Return the text without code blocks and code spans, where brackets are no links."""
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE))


def anchors(path: Path) -> set[str]:
    """Return the anchors that GitHub makes of the headings."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(path: Path, text: str) -> list[str]:
    found = []
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(text)):
        if re.match(r"[a-z]+:", link):
            continue
        file, _, anchor = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        if not target.exists() or (anchor and anchor not in anchors(target)):
            found.append(link)
    return found


@functools.cache
def functions_of(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def is_test(file: str, name: str) -> bool:
    """Tell whether a test file whose path ends with `file` has the test `name`."""
    return any(name in functions_of(path) for path in TESTS if f"/{name_of(path)}".endswith(f"/{file}"))


def unknown_tests(text: str) -> list[str]:
    named = re.findall(r"`((?:\w+/)*test_\w+\.py)::(test_\w+)`", text)
    return [f"{file}::{name}" for file, name in named if not is_test(file, name)]


# --- generated -----------------------------------------------------------------------------------------------------


def diagrams() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_diagrams", DOCS / "make_diagrams.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_state_diagram_is_that_of_the_tables() -> None:
    made = diagrams()
    assert made.TARGET.read_text(encoding="utf-8") == made.render(), "stale: run python docs/make_diagrams.py"


def test_a_changed_table_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    made = diagrams()
    monkeypatch.setattr(made, "TRANSITIONS", made.TRANSITIONS[1:])
    assert made.TARGET.read_text(encoding="utf-8") != made.render()


# --- links ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_between_documents_resolve(page: Path) -> None:
    assert broken_links(page, page.read_text(encoding="utf-8")) == []


def test_broken_links_would_be_noticed() -> None:
    text = (
        "[a](GLOSSARY.md) [b](GONE.md) [c](FORMAT.md#7-chunks) [d](FORMAT.md#gone) [e](https://example.org) `[f](X.md)`"
    )
    assert broken_links(DOCS / "page.md", text) == ["GONE.md", "FORMAT.md#gone"]


# --- tests named in documents --------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_test_named_exists(page: Path) -> None:
    assert unknown_tests(page.read_text(encoding="utf-8")) == []


def test_the_threats_name_a_test_in_every_row_of_what_is_refused() -> None:
    text = (DOCS / "THREATS.md").read_text(encoding="utf-8")
    refused = text.partition("## What is refused today")[2].partition("## What is not covered yet")[0]
    rows = [
        line for line in refused.splitlines() if line.startswith("| ") and not line.startswith(("| attack", "| ---"))
    ]
    assert len(rows) > 20
    assert [row for row in rows if "::test_" not in row] == []


def test_a_test_that_does_not_exist_would_be_noticed() -> None:
    text = "`docs/test_docs.py::test_every_test_named_exists` `test_docs.py::test_gone` `x/test_docs.py::test_gone`"
    assert unknown_tests(text) == ["test_docs.py::test_gone", "x/test_docs.py::test_gone"]


# --- commands named in documents -----------------------------------------------------------------------------------


def commands_named(text: str) -> set[tuple[str, ...]]:
    """Return the commands of ours that code spans and code blocks start, such as `("publisher", "broker", "run")`."""
    blocks = re.findall(r"^```[a-z]*\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)
    spans = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE))
    lines = [line for one in (*blocks, *spans) for line in one.splitlines()]
    found = (re.match(r"(publisher|edge-agent)((?: [a-z][a-z-]+(?=\s|$))*)", line.strip()) for line in lines)
    return {(match[1], *match[2].split()) for match in found if match is not None and match[2]}


def unknown_commands(text: str) -> list[str]:
    from edge_agent.cli import main as agent
    from publisher.cli import main as publisher

    missing = []
    for program, *words in sorted(commands_named(text)):
        command: click.Command | None = {"publisher": publisher, "edge-agent": agent}[program]
        for word in words:
            if not isinstance(command, click.Group):
                break  # what follows is an argument
            command = command.commands.get(word)
        if command is None:
            missing.append(" ".join([program, *words]))
    return missing


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_named_exists(page: Path) -> None:
    assert unknown_commands(page.read_text(encoding="utf-8")) == []


def test_a_command_that_does_not_exist_would_be_noticed() -> None:
    text = "`publisher push x` `publisher teleport`\n```sh\nedge-agent release forget\nedge-agent run --config x\n```\n"
    assert ("edge-agent", "run") in commands_named(text)
    assert unknown_commands(text) == ["edge-agent release forget", "publisher teleport"]


# --- formats -------------------------------------------------------------------------------------------------------

STRUCTS = (
    BlobRef,
    Floor,
    Operator,
    Reason,
    Reply,
    Request,
    export.Index,
    manifest.HealthPolicy,
    manifest.InputSpec,
    manifest.Manifest,
    manifest.ModelRef,
    manifest.OutputSpec,
    manifest.Stage,
    messages.Envelope,
    messages.Way,
    messages.Ways,
    messages.OutputMessage,
    messages.ReleaseInfo,
    messages.Report,
    messages.Rollout,
    messages.SlotReport,
    reports.Answer,
    reports.Command,
    reports.DeviceEvent,
    wire.Failure,
    wire.Load,
    wire.Loaded,
    wire.Note,
    wire.Ready,
)


def spans(text: str) -> set[str]:
    return {word for span in re.findall(r"`([^`\n]+)`", text) for word in re.findall(r"\w+", span)}


@pytest.mark.parametrize("kind", STRUCTS, ids=lambda kind: kind.__name__)
def test_the_format_names_every_field(kind: type[msgspec.Struct]) -> None:
    known = spans((DOCS / "FORMAT.md").read_text(encoding="utf-8"))
    assert [name for name in kind.__struct_fields__ if name not in known] == []


def test_the_format_names_every_code_and_kind() -> None:
    known = spans((DOCS / "FORMAT.md").read_text(encoding="utf-8"))
    values = [one.value for one in (*ReasonCode, *Blame)] + [one.name for one in wire.Kind]
    assert [value for value in values if value not in known] == []


def test_the_format_gives_the_sizes_of_the_code() -> None:
    text = (DOCS / "FORMAT.md").read_text(encoding="utf-8")
    sizes = {
        "bundle": f"{archive.ARCHIVE_BYTES_MAX:,} bytes",
        "members": f"{archive.MEMBERS_MAX:,} members",
        "path": f"over {archive.PATH_BYTES_MAX} bytes",
        "manifest": f"{manifest.MANIFEST_BYTES_MAX:,} bytes",
        "envelope": f"{messages.ENVELOPE_BYTES_MAX:,} bytes",
        "chunk": f"pieces of {messages.CHUNK_BYTES:,} bytes",
        "chunk header": f"header of {messages.CHUNK_HEADER.size} bytes, big-endian",
        "wire header": f"header of {wire.HEADER.size} bytes, little-endian",
        "inline": f"{wire.INLINE_BYTES:,} bytes travels in a memfd",
        "wire payload": f"At most {wire.PAYLOAD_BYTES_MAX // 2**20} MiB. The receiver",
        "report type": messages.REPORT_TYPE,
        **{f"{kind}": f"`{kind}` | {size // 1024} KiB" for kind, size in dsse.BYTES_MAX.items()},
        "backlog of events": f"newest {events.BACKLOG_MAX} lines",
        "good for": f"at most {reports.COMMAND_SECONDS_MAX}",
    }
    assert [name for name, words in sizes.items() if words not in text] == []


def test_the_defaults_of_the_health_policy_are_the_codes() -> None:
    text = " ".join((DOCS / "FORMAT.md").read_text(encoding="utf-8").split())
    policy = msgspec.structs.asdict(manifest.HealthPolicy())
    assert [name for name, value in policy.items() if f"`{name}` {value:g}" not in text] == []


# --- clauses -------------------------------------------------------------------------------------------------------


def test_every_clause_that_comments_cite_is_written_down() -> None:
    sources = [path for package in ("edge_agent", "publisher") for path in (ROOT / package).rglob("*.py")]
    cited = {
        f"{first[0]}{number}"
        for path in sources
        for first, last in re.findall(r"\b([FITMUR]\d{1,2})(?:–[FITMUR]?(\d+))?\b", comments_of(path))
        for number in range(int(first[1:]), int(last or first[1:]) + 1)
    }
    text = (DOCS / "CLAUSES.md").read_text(encoding="utf-8")
    assert len(cited) > 30
    assert sorted(clause for clause in cited if f"| {clause} |" not in text) == []


def comments_of(path: Path) -> str:
    """Return comments and docstrings, as far as a clause may be cited in them."""
    source = path.read_text(encoding="utf-8")
    strings = [
        node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant) and type(node.value) is str
    ]
    return "\n".join([*strings, *re.findall(r"#.*", source)])


# --- decision records ----------------------------------------------------------------------------------------------


def test_records_are_numbered_without_gaps_and_listed() -> None:
    assert [int(path.name[:4]) for path in RECORDS] == list(range(1, len(RECORDS) + 1))
    index = (DOCS / "adr" / "README.md").read_text(encoding="utf-8")
    assert [path.name for path in RECORDS if f"({path.name})" not in index] == []


@pytest.mark.parametrize("record", RECORDS, ids=lambda path: path.stem)
def test_a_record_says_why_what_and_what_follows(record: Path) -> None:
    headings = re.findall(r"^## (.+)$", record.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert headings == ["Context", "Decision", "Consequences"]
