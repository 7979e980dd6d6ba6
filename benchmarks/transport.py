"""What an update costs on the wire, on the processor and in time, against peers in the same run.

    .venv/bin/python benchmarks/transport.py [--json] [--long]

`--long` signs 50 releases, to see what an envelope weighs then.

Bytes are counted by a TCP proxy between broker and device: what a link would bill, MQTT headers included. The
peers: sha256 and one write of the same bytes (the floor of verify and install), and `mosquitto_sub` (the pull).
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from edge_agent.contract.digest import BlobRef  # noqa: E402
from edge_agent.contract.manifest import (  # noqa: E402
    InputSpec,
    Manifest,
    ModelRef,
    OutputSpec,
    Stage,
    encode_manifest,
    parse_manifest,
)
from edge_agent.contract.messages import Topics, Way, Ways, encode_ways  # noqa: E402
from edge_agent.contract.verification import Request  # noqa: E402
from edge_agent.transport import blobs, envelope  # noqa: E402
from edge_agent.transport.client import Client  # noqa: E402
from edge_agent.transport.fetcher import Fetcher  # noqa: E402
from edge_agent.transport.patching import Hints, patch  # noqa: E402
from edge_agent.transport.puller import Puller  # noqa: E402
from edge_agent.update.layout import lay_out  # noqa: E402
from edge_agent.update.trust import verify  # noqa: E402
from publisher.deltas import make  # noqa: E402
from publisher.trust.keys import KeyStore  # noqa: E402
from tests.simulators import author  # noqa: E402
from tests.simulators.broker import Mosquitto  # noqa: E402
from tests.simulators.fleet import FleetSimulator  # noqa: E402
from tests.simulators.hostile import Tally, tallying  # noqa: E402
from tests.simulators.proxy import Proxy  # noqa: E402

MODEL_BYTES = 50_000_000
ROUNDS = 5


def main() -> None:
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="bench-") as directory, Mosquitto("set_tcp_nodelay true") as broker:
        place = Path(directory)
        found["edit"] = edit(place / "edit", broker)
        found["model"] = model(place, broker)
        found["install"] = [install(place, size) for size in (1_000_000, MODEL_BYTES)]
        found["verify_ms"] = verifier(place / "verify", broker)
        found["pull"] = pull(place, broker)
    print(json.dumps(found, indent=2) if "--json" in sys.argv[1:] else words(found))


# --- bytes -----------------------------------------------------------------------------------------------------------


def edit(place: Path, broker: Mosquitto) -> dict[str, int]:
    """Push a class of 400 lines, then with 20 of them changed, as the tenth release; count what the device gets."""
    lines = [f"    {name} = {random.Random(name).random()}" for name in (f"value_{n}" for n in range(400))]
    whole = ["class Table:", *lines]
    changed = whole[:100] + [f"    changed_{n} = {n} * value_{n}" for n in range(20)] + whole[120:]
    tally = Tally()
    place.mkdir()
    with FleetSimulator(place, broker.url) as fleet, Proxy(broker.port, shaper=tallying(tally)) as proxy:

        def release(name: str, table: list[str], factor: int) -> str:
            return fleet.write(f"{name}.py", "\n".join([*table, author.scale(factor)]))

        for factor in range(8):
            fleet.sign(release("first", whole, factor + 10))
        agent = fleet.agent(url=proxy.url)
        fleet.feed(agent)
        fleet.push(release("first", whole, 2), wait=True)
        tally.bytes.clear()
        result = fleet.push(release("first", changed, 2), wait=True)
        assert result.ending.value == "committed", result
        mine = {topic: size for topic, size in tally.bytes.items() if topic.startswith("fieldcast/")}
        trust = sum(size for topic, size in mine.items() if topic.endswith("/trust"))
        sizes = {"trust": trust, "blobs": sum(mine.values()) - trust, "all": sum(mine.values())}
        listed = [len(fleet.channel.releases()), len(envelope.pack(fleet.channel.envelope()))]
        while "--long" in sys.argv[1:] and len(fleet.channel.releases()) < 50:
            again(fleet, len(fleet.channel.releases()))
        count = len(fleet.channel.releases())
        packed = len(envelope.pack(fleet.channel.envelope()))
        each = (packed - listed[1]) / max(1, count - listed[0])
        return {**sizes, "releases": count, "envelope": packed, "bytes_a_release": round(each)}


def again(fleet: FleetSimulator, number: int) -> None:
    """Sign what is offered once more, with another health policy: packing a class takes a second, this does not."""
    _, info = fleet.channel.current()["meter"]
    manifest = parse_manifest(fleet.channel.manifest(info.digest))
    health = msgspec.structs.replace(manifest.health, probation_frames=100 + number)
    fleet.channel.publish(
        encode_manifest(msgspec.structs.replace(manifest, health=health)),
        pipeline="meter",
        keys=KeyStore(fleet.home.keys),
        passphrase=fleet.passphrase,
    )


def model(place: Path, broker: Mosquitto) -> dict[str, dict[str, float]]:
    """Fetch a model of 50 MB of which 1 % of the weights changed, over the wire, with the old one on disk."""
    rng = np.random.default_rng(0)
    old = rng.standard_normal(MODEL_BYTES // 4).astype(np.float32)
    some = old.size // 100
    found = {}
    for name, which in (("together", slice(0, some)), ("scattered", rng.choice(old.size, some, replace=False))):
        new = old.copy()
        new[which] += (0.01 * rng.standard_normal(some)).astype(np.float32)
        found[name] = delta(place / name, broker, old.tobytes(), new.tobytes())
    return found


def delta(place: Path, broker: Mosquitto, old: bytes, new: bytes) -> dict[str, float]:
    begun = time.perf_counter()
    difference = make(old, new)
    assert difference is not None
    make_seconds = time.perf_counter() - begun
    topics, ref = Topics("bench"), BlobRef.of(new)
    with Client(broker.url, "bench-publisher") as client, Proxy(broker.port) as proxy:
        client.wait_connected(10)
        blobs.publish(client, topics, difference)
        ways = Ways(format=1, ways=[Way(base=BlobRef.of(old).digest, delta=BlobRef.of(difference))])
        client.publish(topics.ways(ref.digest), encode_ways(ways), retain=True).wait(10)
        fetcher, device = device_at(proxy.url, topics, place / "blobs")
        with device:
            device.wait_connected(10)
            base = fetcher.path(BlobRef.of(old).digest)
            base.parent.mkdir(parents=True)
            base.write_bytes(old)
            before, begun = proxy.down_bytes, time.perf_counter()
            assert fetcher.fetch(ref).stat().st_size == len(new)
            seconds, wire = time.perf_counter() - begun, proxy.down_bytes - before
        path = place / "delta"
        path.write_bytes(difference)
        cpu = cpu_seconds(lambda: patch(ref, base, path, place / "patched", threading.Event()))
        peak = patch_mib([str(base), str(path), str(len(new))])
        agent = agent_mib([str(base), str(path), str(ref.digest), str(ref.size)])
    shutil.rmtree(place)
    return {
        "wire_bytes": wire,
        "share": wire / len(new),
        "make_seconds": make_seconds,
        "fetch_seconds": seconds,
        "patch_cpu_seconds": cpu,
        "patch_peak_mib": peak,
        "agent_before_mib": agent[0],
        "agent_peak_mib": agent[1],
    }


def patch_mib(arguments: list[str]) -> float:
    """Return the peak of a patch process; started by a small one, since a child begins with its parent's peak."""
    script = (
        "import resource, subprocess, sys\n"
        "command = [sys.executable, '-m', 'edge_agent.transport.patch', *sys.argv[1:]]\n"
        "subprocess.run(command, check=True, stdout=subprocess.DEVNULL)\n"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)"
    )
    done = subprocess.run([sys.executable, "-c", script, *arguments], check=True, capture_output=True, cwd=ROOT)
    return float(done.stdout)


def agent_mib(arguments: list[str]) -> tuple[float, float]:
    """Return the PSS of a process with the agent's modules before a patch, and its peak meanwhile."""
    script = (
        "import sys, threading\n"
        "from pathlib import Path\n"
        "import edge_agent.agent\n"
        "from edge_agent.contract.digest import BlobRef, Digest\n"
        "from edge_agent.transport.patching import patch\n"
        "def pss():\n"
        "    lines = Path('/proc/self/smaps_rollup').read_text().splitlines()\n"
        "    return int(next(line for line in lines if line.startswith('Pss:')).split()[1]) / 1024\n"
        "base, delta = map(Path, sys.argv[1:3])\n"
        "ref = BlobRef(digest=Digest(sys.argv[3]), size=int(sys.argv[4]))\n"
        "done, seen = threading.Event(), [pss()]\n"
        "def watch():\n"
        "    while not done.wait(0.005):\n"
        "        seen.append(pss())\n"
        "watcher = threading.Thread(target=watch)\n"
        "watcher.start()\n"
        "patch(ref, base, delta, base.with_name('once-more'), threading.Event())\n"
        "done.set()\n"
        "watcher.join()\n"
        "print(seen[0], max(seen))"
    )
    done = subprocess.run([sys.executable, "-c", script, *arguments], check=True, capture_output=True, cwd=ROOT)
    before, peak = map(float, done.stdout.split())
    return before, peak


def device_at(url: str, topics: Topics, directory: Path) -> tuple[Fetcher, Client]:
    parts: list[Any] = []
    client = Client(url, "bench-device", clean_start=True, on_message=lambda *m: [one.on_message(*m) for one in parts])
    puller, hints = Puller(client, topics, directory), Hints(client, topics)
    parts += [hints, puller]
    return Fetcher(directory, [puller], hints), client


# --- processor -------------------------------------------------------------------------------------------------------


def cpu_seconds(act: Callable[[], Any]) -> float:
    """Return the processor time of this process and of the children it waited for."""

    def used() -> float:
        both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(one.ru_utime + one.ru_stime for one in both)

    before = used()
    act()
    return used() - before


def install(place: Path, size: int) -> dict[str, float]:
    """From chunk messages in memory to a durable, laid-out release, against sha256 and one write of the same bytes.

    The puller, the file it lands in and the layout are the agent's; only the client is not, which hands over messages.
    """
    data = random.Random(size).randbytes(size)
    ref, rounds = BlobRef.of(data), (30 if size < 10_000_000 else 3 * ROUNDS)
    topics, messages = Topics("bench-install"), blobs.split(data)
    stage = Stage(
        name="model",
        target="edge_agent.sdk.onnx_model:OnnxModel",
        fingerprint="builtin:edge_agent.sdk.onnx_model:OnnxModel",
        models={"path": ModelRef(blob=ref, name="model.onnx")},
    )
    spec: dict[str, Any] = {"input": InputSpec(columns=["x"]), "output": OutputSpec(columns=["y"])}
    manifest = encode_manifest(Manifest(format=1, pipeline="bench", stages=[stage], **spec))
    ours, floors = [], []
    for number in range(rounds):
        here = place / f"install-{number}"
        source = Handed(topics, ref, messages)
        source.puller = Puller(source, topics, here)
        fetcher = Fetcher(here, [source.puller])

        def act(here: Path = here, fetcher: Fetcher = fetcher) -> None:
            fetcher.fetch(ref)
            lay_out(here / "releases", manifest, lambda one: fetcher.path(one.digest), fetcher.proven)

        ours.append(cpu_seconds(act))
        shutil.rmtree(here)
        floors.append(cpu_seconds(lambda: floor(place / "floor", data)))
        (place / "floor").unlink()
    mine, least = statistics.median(ours), statistics.median(floors)
    return {"bytes": size, "ours_ms": mine * 1e3, "floor_ms": least * 1e3, "ratio": mine / least}


class Handed:
    """A client that has every chunk in memory and hands over what is asked for at once."""

    condition, connection = "connected", 1
    puller: Puller

    def __init__(self, topics: Topics, ref: BlobRef, messages: list[bytes]) -> None:
        self._messages = {topics.chunk(ref.digest, index): message for index, message in enumerate(messages)}

    def ask(self, topics: Iterable[str]) -> int:
        for topic in topics:
            self.puller.on_message(topic, self._messages[topic])
        return 1

    def unsubscribe(self, topics: Iterable[str]) -> None:
        pass

    def refusal(self, topic: str) -> str:
        return ""


def floor(path: Path, data: bytes) -> None:
    hashlib.sha256(data).hexdigest()
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def verifier(place: Path, broker: Mosquitto) -> float:
    """Processor time of judging an envelope, its process included."""
    place.mkdir()
    with FleetSimulator(place, broker.url) as fleet:
        signed = fleet.sign(fleet.write("one.py", author.scale(2)))
        request = Request(
            fleet=fleet.home.fleet,
            channel="staging",
            now=time.time(),
            root=(fleet.home.device / "staging.root.json").read_bytes(),
            envelope=signed.published.envelope,
        )
        return statistics.median(cpu_seconds(lambda: verify(request)) for _ in range(ROUNDS)) * 1e3


# --- time ------------------------------------------------------------------------------------------------------------


def pull(place: Path, broker: Mosquitto) -> dict[str, float]:
    """50 MB from the broker: our puller (checked and durable) against `mosquitto_sub`, which drops what it gets.

    Not in it: the quarter of a second that a device listens for a hint, once a blob; `hint_seconds` measures that.
    """
    data, topics = random.Random(1).randbytes(MODEL_BYTES), Topics("bench-pull")
    ref = BlobRef.of(data)
    count = len(blobs.split(data))
    with Client(broker.url, "bench-publisher") as client:
        client.wait_connected(10)
        blobs.publish(client, topics, data)
    executable = shutil.which("mosquitto_sub")
    ours, theirs, hints = [], [], []
    for number in range(2 * ROUNDS):
        here = place / f"pull-{number}"
        fetcher, device = device_at(broker.url, topics, here)
        with device:
            device.wait_connected(10)
            begun = time.perf_counter()
            Hints(device, topics).hear(ref)
            hints.append(time.perf_counter() - begun)
            target = fetcher.path(ref.digest)
            begun = time.perf_counter()
            fetcher._sources[0].fetch(ref, target, timeout_seconds=20, stop=threading.Event())
            ours.append(time.perf_counter() - begun)
        shutil.rmtree(here)
        if executable:
            topic = topics.chunk(ref.digest, 0).rpartition("/")[0] + "/+"
            command = [executable, "-p", str(broker.port), "-t", topic, "-C", str(count), "-N"]
            begun = time.perf_counter()
            subprocess.run(command, stdout=subprocess.DEVNULL, check=True, timeout=60)
            theirs.append(time.perf_counter() - begun)
    mine = statistics.median(ours)
    found = {"ours_mb_per_second": MODEL_BYTES / 1e6 / mine, "hint_seconds": statistics.median(hints)}
    if theirs:
        peer = statistics.median(theirs)
        found |= {"mosquitto_sub_mb_per_second": MODEL_BYTES / 1e6 / peer, "time_ratio": mine / peer}
    return found


def words(found: dict[str, Any]) -> str:
    one = found["edit"]
    lines = [
        f"20 changed lines of 400   {one['all']:>9,} bytes to the device (goal 4,096): trust {one['trust']:,}, "
        f"blobs {one['blobs']:,}; an envelope after {one['releases']} releases: {one['envelope']:,}"
        + (f", {one['bytes_a_release']} for each" if one["bytes_a_release"] else "")
    ]
    for name, goal in (("together", 1.1), ("scattered", 2.5)):
        row = found["model"][name]
        lines.append(
            f"50 MB, 1 % {name:<12} {row['wire_bytes']:>12,} bytes = {row['share'] * 100:.2f} % (goal {goal} %); "
            f"made in {row['make_seconds']:.2f} s, fetched in {row['fetch_seconds']:.2f} s, patch "
            f"{row['patch_cpu_seconds']:.2f} s CPU, {row['patch_peak_mib']:.0f} MiB in a process of its own, the agent "
            f"{row['agent_before_mib']:.1f} to {row['agent_peak_mib']:.1f} MiB"
        )
    for row, goal in zip(found["install"], ("10 ms", "1.3 x"), strict=True):
        lines.append(
            f"install {row['bytes'] / 1e6:>4.0f} MB            {row['ours_ms']:9.1f} ms CPU, "
            f"floor {row['floor_ms']:.1f} ms: {row['ratio']:.2f} x (goal {goal})"
        )
    lines.append(f"verify one envelope       {found['verify_ms']:9.0f} ms CPU, its process included")
    pulled = found["pull"]
    lines.append(
        f"pull 50 MB                {pulled['ours_mb_per_second']:9.0f} MB/s, mosquitto_sub "
        f"{pulled.get('mosquitto_sub_mb_per_second', 0):.0f} MB/s: {pulled.get('time_ratio', 0):.2f} x its time, "
        f"after {pulled['hint_seconds']:.2f} s for a hint"
    )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
