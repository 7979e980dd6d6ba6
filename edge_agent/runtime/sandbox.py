"""What a worker takes away from itself before it loads anybody's code (R6), and an honest account of it.

`apply` works layer by layer and says of each what came of it: `applied …`, `refused: why` or `not covered: why`. It
judges nothing: whether a gap is tolerable is the device's decision. It refuses to run in a process that has threads
already, because credentials belong to threads: call it before any import that starts some (numpy, onnxruntime).
Limits and ties are here; which files and calls are left is put together here too, and enforced by
`edge_agent.runtime.landlock` and `edge_agent.runtime.seccomp`.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import resource
import select
import signal
import struct
import sys
from collections.abc import Callable
from pathlib import Path

from edge_agent.contract.digest import decode_json, encode_json
from edge_agent.runtime import landlock, seccomp
from edge_agent.runtime.limits import MIB, Limits
from edge_agent.runtime.readable import readable

__all__ = ["Limits", "apply", "main"]

MAPPED_BYTES = 2 * 1024 * MIB
# linux/prctl.h
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 1, 4, 38
# linux/capability.h
_CAPABILITY_VERSION_3 = 0x20080522

F_SETSIG = 10  # fcntl(2); Python knows no name for it

_libc = ctypes.CDLL(None, use_errno=True)
_libc.prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]
_libc.capget.argtypes = [ctypes.c_char_p, ctypes.c_char_p]
_libc.capset.argtypes = [ctypes.c_char_p, ctypes.c_char_p]


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
    report |= _reach(limits)
    if parent and os.getppid() != parent:
        raise ProcessLookupError(f"the agent (process {parent}) ended before its worker was ready")
    if limits.lifeline >= 0 and _let_go(limits.lifeline):
        raise ProcessLookupError("the agent let go of its worker before it was ready")
    return report


def main() -> None:
    """Print what came of each layer on this machine, as JSON: `python -m edge_agent.runtime.sandbox LIMITS`."""
    report = apply(decode_json(sys.argv[1].encode(), Limits))
    sys.stdout.write(encode_json(report).decode() + "\n")


def _let_go(descriptor: int) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLRDHUP)
    return bool(poll.poll(0))


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
        return _lifeline(limits.lifeline)
    _checked(_libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0))
    return "applied: killed when " + ("its parent ends" if limits.parent is None else "the agent ends")


def _lifeline(descriptor: int) -> str:
    """Ask for SIGKILL when the other end of a socket is closed, as it is when the agent ends (F_SETSIG, fcntl(2)).

    The system call filter keeps the descriptor open and its settings as they are.
    """
    if descriptor < 0:
        return "not covered: not a child of the agent, its unit must end it"
    fcntl.fcntl(descriptor, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(descriptor, F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(descriptor, fcntl.F_SETFL, fcntl.fcntl(descriptor, fcntl.F_GETFL) | os.O_ASYNC)
    return "applied: killed when the agent lets go of it"


def _tracing(limits: Limits) -> str:
    # Hides the worker's /proc entries from the agent too: what it uses it must measure itself.
    _checked(_libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0))
    return "applied: processes of the same user cannot read this one"


def _core_dumps(limits: Limits) -> str:
    return _limit(resource.RLIMIT_CORE, 0)


def _memory(limits: Limits) -> str:
    """Bound what the process has for itself (RLIMIT_DATA), and what it may map of files and share beside that.

    Bounding the address space alone would hit those who map large files and never touch them.
    """
    own = limits.memory_bytes or os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    _limit(resource.RLIMIT_AS, own + MAPPED_BYTES)
    _limit(resource.RLIMIT_DATA, own)
    return f"applied: {own // MIB} MiB of its own; memory files count by their number and size alone"


def _open_files(limits: Limits) -> str:
    return _limit(resource.RLIMIT_NOFILE, limits.open_files)


def _file_size(limits: Limits) -> str:
    return _limit(resource.RLIMIT_FSIZE, limits.file_bytes)


def _processes(limits: Limits) -> str:
    if limits.processes is None:
        return "not covered: no limit set; the system call filter allows threads, which the memory limit bounds"
    if os.getuid() == 0:
        return "not covered: the kernel does not count the processes of root"
    return _limit(resource.RLIMIT_NPROC, limits.processes)


def _cpu(limits: Limits) -> str:
    return "not covered: only a control group bounds a share of the processor (CPUQuota= of a unit)"


def _reach(limits: Limits) -> dict[str, str]:
    """Close what lies outside the process: files, system calls, the network, other processes."""
    guarded, files = _file_system(limits)
    filtered, calls = _system_calls(limits, guarded)
    scoped = guarded >= landlock.SCOPE_VERSION
    tcp = "TCP is closed, other families" if guarded >= landlock.TCP_VERSION else "sockets"
    return {
        "file_system": files,
        "system_calls": calls,
        "network": "applied: opens no socket"
        if filtered
        else f"not covered: {tcp} are open without the system call filter",
        "signals": "applied: to itself only" if filtered or scoped else "not covered: needs the system call filter",
    }


def _file_system(limits: Limits) -> tuple[int, str]:
    """Leave Python's files and the release readable, nothing writable; return Landlock's version, 0 without."""
    paths = readable(limits.release)
    try:
        version = landlock.version()
        landlock.restrict(version, paths.rules, paths.held)
    except OSError as error:
        words = "without it files are as the user may read them, /proc of the agent included"
        return 0, f"refused: {error.strerror}; {words}"
    if paths.beside:
        return version, f"not covered: {paths.beside} is on Python's path and holds the agent's own files too"
    return version, f"applied: reads Python and its release, writes nothing (Landlock {version})"


def _system_calls(limits: Limits, guarded: int) -> tuple[bool, str]:
    try:
        steps = seccomp.program(os.uname().machine, os.getpid(), landlock=guarded, lifeline=limits.lifeline)
        seccomp.install(steps)
    except (OSError, ValueError) as error:
        return False, f"refused: {error}"
    words = "" if guarded else "; opens nothing for writing, since no Landlock sees to it"
    return True, f"applied: {len(steps) // 8} steps{words}"


def _limit(which: int, value: int | None) -> str:
    """Lower a limit for good, hard and soft; an already lower hard limit stays."""
    _, hard = resource.getrlimit(which)
    if value is None:
        return "not covered: no limit set" + ("" if hard == resource.RLIM_INFINITY else f", inherited {hard}")
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(which, (value, value))
    return f"applied: {value}"


# The order matters: capabilities before the tie to the parent, and all of these before the system call filter.
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
    ("cpu", _cpu),
)


if __name__ == "__main__":
    main()
