"""What a worker takes away from itself before it loads anybody's code (R6), and an honest account of it.

`apply` works layer by layer and says of each what came of it: `applied …`, `refused: why` or `not covered: why`. It
judges nothing: whether a gap is tolerable is the device's decision. It refuses to run in a process that has threads
already, because credentials belong to threads: call it before any import that starts some (numpy, onnxruntime).
Standard library only.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Limits", "apply"]

_MIB = 1024 * 1024
# linux/prctl.h
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 1, 4, 38
# linux/capability.h
_CAPABILITY_VERSION_3 = 0x20080522

_libc = ctypes.CDLL(None, use_errno=True)
_libc.prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]
_libc.capget.argtypes = [ctypes.c_char_p, ctypes.c_char_p]
_libc.capset.argtypes = [ctypes.c_char_p, ctypes.c_char_p]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one worker may use; None leaves the limit that it was started with.

    `parent` is the process id of the agent; None ties the worker to whoever is its parent by now, which misses an agent
    that has ended already; 0 is for a worker that systemd started and ends. `memory_bytes` bounds the
    address space, which onnxruntime fills faster than memory: leave room. `processes` counts all threads of the user,
    the agent's included.
    """

    parent: int | None = None
    memory_bytes: int | None = None
    open_files: int | None = 256
    file_bytes: int | None = 64 * _MIB
    processes: int | None = None


def apply(limits: Limits) -> dict[str, str]:
    """Lock the calling process down and return what came of each layer, in words.

    No layer can be taken back. Raises `RuntimeError` when threads are running already, and `ProcessLookupError` when
    the agent ended before the worker could tie itself to it: exit then.
    """
    threads = _threads()
    if threads > 1:
        raise RuntimeError(f"the sandbox would cover one of {threads} threads: apply it before anything starts threads")
    parent = os.getppid() if limits.parent is None else limits.parent
    report = {name: _outcome(layer, limits) for name, layer in _LAYERS}
    if parent and os.getppid() != parent:
        raise ProcessLookupError(f"the agent (process {parent}) ended before its worker was ready")
    return report


def _threads() -> int:
    try:
        return len(list(Path("/proc/self/task").iterdir()))
    except OSError:
        return 1


def _outcome(layer: Callable[[Limits], str], limits: Limits) -> str:
    try:
        return layer(limits)
    except (OSError, ValueError) as error:
        return f"refused: {error}"


def _checked(result: int) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _new_privileges(limits: Limits) -> str:
    _checked(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    return "applied: set-user-id and file capabilities have no effect"


def _capabilities(limits: Limits) -> str:
    """Give up every capability, or a worker of root could lift its limits again; see capset(2).

    The agent's unit forbids `capset`, and has left nothing to give up.
    """
    header = ctypes.create_string_buffer(struct.pack("=Ii", _CAPABILITY_VERSION_3, 0), 8)
    held = ctypes.create_string_buffer(24)
    _checked(_libc.capget(header, held))
    if not any(held.raw):
        return "applied: had none"
    _checked(_libc.capset(header, bytes(24)))
    return "applied: none left"


def _parent_death(limits: Limits) -> str:
    """Ask for SIGKILL when the agent's *thread* that started this process ends (prctl(2)): start from one that stays.

    Comes after the capabilities: a change of credentials may clear the request.
    """
    if limits.parent == 0:
        return "not covered: not a child of the agent, its unit must end it"
    _checked(_libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0))
    return "applied: killed when " + ("its parent ends" if limits.parent is None else "the agent ends")


def _tracing(limits: Limits) -> str:
    # Hides the worker's /proc entries from the agent too: what it uses it must measure itself.
    _checked(_libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0))
    return "applied: processes of the same user cannot read this one"


def _core_dumps(limits: Limits) -> str:
    return _limit(resource.RLIMIT_CORE, 0)


def _memory(limits: Limits) -> str:
    return _limit(resource.RLIMIT_AS, limits.memory_bytes)


def _open_files(limits: Limits) -> str:
    return _limit(resource.RLIMIT_NOFILE, limits.open_files)


def _file_size(limits: Limits) -> str:
    return _limit(resource.RLIMIT_FSIZE, limits.file_bytes)


def _processes(limits: Limits) -> str:
    if limits.processes is not None and os.getuid() == 0:
        return "not covered: the kernel does not count the processes of root"
    return _limit(resource.RLIMIT_NPROC, limits.processes)


def _limit(which: int, value: int | None) -> str:
    """Lower a limit for good, hard and soft; an already lower hard limit stays."""
    _, hard = resource.getrlimit(which)
    if value is None:
        return "not covered: no limit set" + ("" if hard == resource.RLIM_INFINITY else f", inherited {hard}")
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(which, (value, value))
    return f"applied: {value}"


def _missing(what: str) -> Callable[[Limits], str]:
    return lambda limits: f"not covered: {what}"


# The order matters: capabilities before the tie to the parent.
_LAYERS: tuple[tuple[str, Callable[[Limits], str]], ...] = (
    ("new_privileges", _new_privileges),
    ("capabilities", _capabilities),
    ("parent_death", _parent_death),
    ("tracing", _tracing),
    ("core_dumps", _core_dumps),
    ("memory", _memory),
    ("open_files", _open_files),
    ("file_size", _file_size),
    ("processes", _processes),
    ("file_system", _missing("this version does not use Landlock")),
    ("system_calls", _missing("this version sets no seccomp filter")),
    ("network", _missing("this version does not close the network")),
)
