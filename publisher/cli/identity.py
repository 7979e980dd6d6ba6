"""`publisher closure`, `fingerprint`, `diff`, `show` and `pack`: what would be shipped, and who it is.

Classes, functions, files and modules are only read. A TARGET that names a pipeline object is imported, as `push` does.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from publisher.cli import echo_json, home_option, json_option, main

if TYPE_CHECKING:
    from publisher.comparison.description import BlobShown, Description

root_option = click.option(
    "--root",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    metavar="DIR",
    help="The project directory; else guessed from where the file lies.",
)
channel_option = click.option("-c", "--channel", metavar="NAME", help="Look for releases in this channel only.")


@main.command(short_help="List what a class needs to run elsewhere.")
@click.argument("target", required=False, metavar="[TARGET|FILE]")
@root_option
@json_option
def closure(target: str | None, root: Path | None, as_json: bool) -> None:
    """List the files, distributions and data that TARGET needs to run elsewhere, and what cannot be shipped.

    TARGET is module:attr, file.py[:attr], or none for [tool.fieldcast] in pyproject.toml. Nothing of it is run, unless
    it names a pipeline: then the closures of its stages are listed together. Exit code 1 when something is refused.
    """
    from publisher.comparison import identity

    found = identity.closure(target, root=root)
    if as_json:
        echo_json(found)
    else:
        for key in ("files", "requires", "data"):
            _print_list(key, found[key])
        _print_list("refused", [f"{one['file']}:{one['line']}: {one['reason']}" for one in found["refused"]])
    sys.exit(1 if found["refused"] else 0)


@main.command(short_help="Say who a class is, by the meaning of its source.")
@click.argument("target", required=False)
@root_option
@json_option
def fingerprint(target: str | None, root: Path | None, as_json: bool) -> None:
    """Print the fingerprint of TARGET and of every part that it is made of.

    Comments, formatting, docstrings and the Python version do not count; whatever can change behaviour does. A TARGET
    that names a pipeline gives an entry for each stage (parameters and state are not code: see `publisher diff`), and
    one for all of them together.
    """
    from publisher.comparison import identity

    found = identity.fingerprint(target, root=root)
    if as_json:
        echo_json(found)
        return
    click.echo(f"{found['fingerprint']}  {found['target']}")
    stages = found.get("stages")
    for stage in stages or [found]:
        if stages:
            click.echo(f"  {stage['fingerprint']}  {stage['name']} ({stage['target']})")
        for name, value in stage["components"].items():
            click.echo(f"{'    ' if stages else '  '}{value[:12]}  {name}")


@main.command(short_help="Say what differs between two classes, pipelines or releases.")
@click.argument("a")
@click.argument("b")
@root_option
@channel_option
@home_option
@json_option
def diff(a: str, b: str, root: Path | None, channel: str | None, home: Path | None, as_json: bool) -> None:
    """Say in words what differs from A to B, then show it as a source diff.

    A and B are each a TARGET, DIR::TARGET for a tree elsewhere, or a release: name@sequence, name@channel, name@tag or
    the first digits of its digest. Exit codes: 0 equal in meaning, 1 different, 2 cannot be compared.
    """
    from edge_agent.contract.errors import AuthorError, ConfigError
    from publisher.comparison.difference import compare
    from publisher.comparison.edition import open_edition

    try:
        found = compare(*(open_edition(text, root=root, home=home, channel=channel) for text in (a, b)))
    except AuthorError as error:
        raise ConfigError(str(error)) from None  # 1 says "different", so what cannot be compared must not end with it
    if as_json:
        echo_json(found.to_json())
    elif found.equal:
        files = f"; only comments or formatting differ in {', '.join(found.reworded)}" if found.reworded else ""
        click.echo(f"equal in meaning{files}")
    else:
        click.echo("\n".join(found.words()))
        click.echo(f"\n{found.source}" if found.source else "", nl=False)
    sys.exit(0 if found.equal else 1)


@main.command(short_help="Show everything about a release.")
@click.argument("reference", metavar="REF")
@channel_option
@home_option
@json_option
def show(reference: str, channel: str | None, home: Path | None, as_json: bool) -> None:
    """Show who signed a release, when and from which commit, what it is made of, and what it needs.

    REF is name@sequence, name@channel (what it offers now), name@tag, or the first digits of its digest. Exit code 1
    when its signatures do not hold or a blob is missing or damaged.
    """
    from publisher.comparison.description import describe

    found = describe(reference, home=home, channel=channel)
    if as_json:
        echo_json(found)
    else:
        _print_release(found)
    sys.exit(1 if found.signatures or any(blob.fault for blob in found.blobs) else 0)


@main.command(short_help="Write a pipeline's wheels, manifest and blobs into a directory.")
@click.argument("target", required=False)
@click.option("--out", required=True, type=click.Path(path_type=Path, file_okay=False), metavar="DIR", help="Where to.")
@root_option
@json_option
def pack(target: str | None, out: Path, root: Path | None, as_json: bool) -> None:
    """Write what `push` would sign and send into DIR, and print the digest of each file.

    The same pipeline gives the same bytes on every machine. What an earlier pack left in DIR is replaced.
    """
    from publisher.comparison import identity
    from publisher.comparison.unpacked import write

    package = identity.package(target, root=root)
    written = write(package, out)
    if as_json:
        echo_json({"pipeline": package.manifest.pipeline, "files": written, "warnings": package.warnings})
        return
    for one in written:
        click.echo(f"{one.digest}  {one.size:>10,}  {one.file}  ({one.what})")
    _print_warnings(package.warnings)


def _print_warnings(warnings: list[str]) -> None:
    for warning in warnings:
        click.echo(f"warning: {warning}", err=True)


def _print_list(title: str, lines: list[str]) -> None:
    click.echo(f"{title}:{'' if lines else ' none'}")
    for line in lines:
        click.echo(f"  {line}")


# --- show ----------------------------------------------------------------------------------------------------------


def _print_release(found: Description) -> None:
    import datetime

    info = found.release
    when = datetime.datetime.fromtimestamp(info.published, datetime.UTC)
    commit = f"{info.commit}{' with uncommitted changes' if info.dirty else ''}" if info.commit else ""
    lines = {
        "release": f"{info.name} in {info.channel} of {info.fleet}{', offered now' if found.offered else ''}",
        "also": ", ".join(found.also),
        "tag": info.tag,
        "message": info.message,
        "signed by": f"{info.signer or 'someone unnamed'}, {when:%Y-%m-%d %H:%M:%S} UTC",
        "signatures": found.signatures or "hold, by this workstation's pinned root",
        "commit": commit,
        "manifest": _blob(found.manifest),
        "input": _ports(found.input.columns, found.input.units, found.input.dtypes),
        "output": _ports(found.output.columns, found.output.units, {}),
        "tunable": ", ".join(found.tunable),
        "python": found.requires_python,
        "requires": ", ".join(found.requires),
        "self-test": _blob(found.self_test) if found.self_test else "none",
        "history": f"{found.history} samples" if found.history else "",
    }
    for key, text in lines.items():
        if text:
            click.echo(f"{key:<11} {text}")
    for stage in found.stages:
        click.echo(f"stage       {stage.name}: {stage.target} ({stage.tag})")
        click.echo(f"              fingerprint {stage.fingerprint}")
        for name, value in stage.parameters.items():
            click.echo(f"              parameter {name} = {value!r}")
        for file in stage.files:
            click.echo(f"              {file}")
    for blob in found.blobs:
        click.echo(f"blob        {_blob(blob)}  {blob.what}")


def _ports(columns: list[str], units: dict[str, str], dtypes: dict[str, str]) -> str:
    typed = {name: f"{name}: {dtypes[name]}" if name in dtypes else name for name in columns}
    return ", ".join(f"{typed[name]} [{units[name]}]" if units.get(name) else typed[name] for name in columns)


def _blob(found: BlobShown) -> str:
    return f"{found.digest}  {found.size:,} bytes{f'  {found.fault}' if found.fault else ''}"
