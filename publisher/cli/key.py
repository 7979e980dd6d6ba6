"""`publisher key`: which keys are in force, and how that changes."""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge_agent.contract.errors import ConfigError
from publisher.cli import echo_json, home_option, json_option, main, passphrase_option

if TYPE_CHECKING:
    from publisher.trust.custody import Custodian, RoleListed

_threshold_option = click.option(
    "--threshold", type=click.IntRange(1, 32), metavar="N", help="How many of the role's keys must sign from then on."
)
_public_option = click.option(
    "--public",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.pem",
    help="The public half of somebody else's key (`publisher key export`).",
)


def _acting(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options by which a command finds home, keys and passphrase; it gets them as `who`."""

    @click.option(
        "--keys",
        "directories",
        multiple=True,
        type=click.Path(path_type=Path),
        metavar="DIR",
        help="Look for keys here too, such as on a USB stick; may be given again.",
    )
    @home_option
    @passphrase_option
    @functools.wraps(command)
    def wrapped(
        *args: Any, directories: tuple[Path, ...], home: Path | None, passphrase_file: Path | None, **chosen: Any
    ) -> None:
        from publisher.trust.custody import Custodian
        from publisher.trust.passphrase import ask

        who = Custodian(
            home=home,
            directories=directories,
            passphrase=functools.partial(ask, passphrase_file),
            progress=lambda words: click.echo(f"  {words}", err=True),
        )
        command(*args, who=who, **chosen)

    return wrapped


@main.group()
def key() -> None:
    """Keys of a channel: list, add, rotate, revoke, export, sign."""


@key.command("list", short_help="List roles, keys, thresholds and expiry.")
@click.argument("channel", required=False)
@_acting
@json_option
def key_list(channel: str | None, who: Custodian, as_json: bool) -> None:
    """List roles, keys, thresholds and expiry of CHANNEL (or all), and which private keys are here."""
    from publisher.trust import custody

    found = custody.list_keys(who, [channel] if channel else [])
    if as_json:
        echo_json(found)
    else:
        _print(found)


@key.command("add", short_help="Put a key in force for a role.")
@click.argument("channel")
@click.argument("role")
@click.argument("name", required=False)
@_public_option
@_threshold_option
@click.option(
    "--command", "scope", multiple=True, metavar="TYPE", help="Of an operator: a command the key may send; repeat it."
)
@_acting
def key_add(
    channel: str,
    role: str,
    name: str | None,
    public: Path | None,
    threshold: int | None,
    scope: tuple[str, ...],
    who: Custodian,
) -> None:
    """Put a key in force for ROLE of CHANNEL: a new one (NAME), or somebody else's (--public).

    ROLE is root, timestamp, snapshot, targets, release, rollout, or operator (who may send commands to devices). Exit
    code 7: kept, and waiting for others to sign.
    """
    from publisher.trust import custody

    click.echo(custody.add_key(who, channel, role, name or "", public=public, threshold=threshold, scope=scope))


@key.command("rotate", short_help="Replace a key by a new one.")
@click.argument("channel")
@click.argument("role")
@click.argument("name", required=False)
@_public_option
@_acting
def key_rotate(channel: str, role: str, name: str | None, public: Path | None, who: Custodian) -> None:
    """Replace the key NAME of ROLE in CHANNEL by a new one.

    After the theft of timestamp or snapshot keys: rotate `snapshot`, which takes the timestamp's along; devices then
    follow again, whatever version numbers the thief has signed.
    """
    from publisher.trust import custody

    click.echo(custody.rotate_key(who, channel, role, name or "", public=public))


@key.command("revoke", short_help="Take a key out of force.")
@click.argument("channel")
@click.argument("role")
@click.argument("name", metavar="NAME|KEYID")
@_threshold_option
@_acting
def key_revoke(channel: str, role: str, name: str, threshold: int | None, who: Custodian) -> None:
    """Take a key of ROLE in CHANNEL out of force."""
    from publisher.trust import custody

    click.echo(custody.revoke_key(who, channel, role, name, threshold=threshold))


@key.command("renew", short_help="Sign the roles anew, good for another year.")
@click.argument("channel")
@_acting
def key_renew(channel: str, who: Custodian) -> None:
    """Sign root, targets, release and rollout of CHANNEL anew with the same keys, good for another year."""
    from publisher.trust import custody

    click.echo(custody.renew_roles(who, channel))


@key.command("export", short_help="Print the public half of a key.")
@click.argument("name")
@click.option("--new", is_flag=True, help="Make the key NAME here first, for somebody else to add.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Write it here.")
@_acting
def key_export(name: str, new: bool, out: Path | None, who: Custodian) -> None:
    """Print the public half of a key as PEM, for a colleague to add by `publisher key add … --public FILE`."""
    from publisher.trust import custody

    if out is not None and out.exists():
        raise ConfigError(f"{out} exists already: nothing was written")
    text = custody.export_key(who, name, new=new).decode()
    if out is None:
        click.echo(text, nl=False)
    else:
        out.write_text(text)
        click.echo(f"{out}: the public half of key {name}")


@key.command("sign", short_help="Sign the change that waits, or drop it.")
@click.argument("channel")
@click.option("--drop", is_flag=True, help="Drop the change that waits instead.")
@click.option("-y", "--yes", is_flag=True, help="Sign without asking.")
@_acting
def key_sign(channel: str, drop: bool, yes: bool, who: Custodian) -> None:
    """Show the change that waits in CHANNEL, add this workstation's signatures, and publish it once it has enough."""
    from publisher.trust import custody

    if drop:
        click.echo(custody.drop_change(who, channel))
    else:
        click.echo(custody.sign_change(who, channel, functools.partial(_confirm, channel, yes)))


def _confirm(channel: str, yes: bool, words: Sequence[str]) -> bool:
    click.echo(f"channel {channel}, waiting for signatures:")
    for line in words:
        click.echo(f"  {line}")
    if yes:
        return True
    if not sys.stdin.isatty():
        raise ConfigError("nobody is here to say yes: read what waits, then give --yes")
    return click.confirm("Sign this?", err=True)


def _print(found: list[RoleListed]) -> None:
    rows = [("channel", "role", "needs", "good until", "id", "private half", "key")]
    for role in found:
        needs = "" if role.role == "operator" else f"{role.threshold} of {len(role.keys)}"
        until = time.strftime("%Y-%m-%d", time.gmtime(role.expires)) if role.expires else ""
        first = (role.channel, role.role, needs, until)
        for one in role.keys:
            scope = f" ({', '.join(one.scope)})" if one.scope else ""
            rows.append((*first, one.keyid[:12], "here" if one.here else "-", one.name + scope))
            first = ("", "", "", "")
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        click.echo("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
