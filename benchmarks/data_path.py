"""MQTT in, a filter, MQTT out, JSON both ways, at rising rates: Fieldcast's whole agent against loops and Node-RED.

    .venv/bin/python benchmarks/data_path.py [--quick] [--json] [--node-red DIRECTORY] [--only SUBJECT …]

Subjects: `fieldcast`, the agent as a device runs it (all its threads, its control connection, its sandboxed worker),
with a release pushed over the same broker; `fieldcast-1ms`, the same with `linger_ms = 1`; `paho`, a hand-written loop;
`raw`, one over a bare socket; `node-red`, installed with npm into a temporary directory (or found in `--node-red`).

A rate is sustained when every reading is answered, 99 of 100 within 100 ms; a rate that fails is tried once more. CPU
is scheduler time of all processes and threads of the subject (`/proc/PID/task/*/schedstat`), from the first reading to
the last answer, without broker and load. `--quick` runs fewer and shorter steps, and no Node-RED.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from data_path_subjects import BROKER, Bench, Load, Mosquitto, cpu_seconds, pss_mib

RATES = {
    "paho": [5000, 6000, 7000, 8000, 9000, 10000, 11000, 12000, 14000, 16000, 20000],
    "node-red": [5000, 8000, 10000, 12000, 14000, 16000, 18000, 20000, 24000, 28000],
    "": [5000, 12000, 16000, 20000, 24000, 28000, 32000, 36000, 40000, 44000, 48000, 54000, 60000],
}
QUICK = {
    "paho": [5000, 7000, 8000, 9000, 10000, 12000],
    "raw": [5000, 12000, 20000],
    "": [5000, 12000, 20000, 28000, 32000, 36000, 40000],
}
SLOWER = [3000, 2000, 1000, 500]  # for who does not manage the first
SUBJECTS = ("paho", "raw", "fieldcast", "fieldcast-1ms", "node-red")
P99_MS_MAX = 100.0


def step(load: Load, pid: int, rate: int, seconds: float) -> dict[str, Any]:
    """Send at one rate; return what was lost, how late answers came, and what they cost."""
    before = cpu_seconds(pid)
    found = load.drive(rate, seconds)
    cost = (cpu_seconds(pid) - before) / found["sent"] * 1e6
    lost = found["sent"] - found["distinct"]
    well = lost == 0 and found["p99_ms"] < P99_MS_MAX and found["rate"] > 0.95 * rate
    row = {"rate": rate, "sustained": well, "lost": lost, "cpu_us": round(cost, 1), "pss_mib": round(pss_mib(pid), 1)}
    return row | {key: found[key] for key in ("p50_ms", "p99_ms", "max_ms", "repeated")}


def ladder(bench: Bench, load: Load, subject: str, seconds: float) -> list[dict[str, Any]]:
    """Run one subject at rising rates until one fails twice."""
    table = QUICK if bench.quick else RATES
    rows: list[dict[str, Any]] = []
    with bench.running(subject, load) as pid:
        for rate in table.get(subject, table[""]):
            rows.append(_tried(load, pid, subject, rate, seconds))
            if not rows[-1]["sustained"]:
                break
        if not any(row["sustained"] for row in rows):
            for rate in SLOWER:
                rows.append(_tried(load, pid, subject, rate, seconds))
                if rows[-1]["sustained"]:
                    break
    return rows


def _tried(load: Load, pid: int, subject: str, rate: int, seconds: float) -> dict[str, Any]:
    row = step(load, pid, rate, seconds)
    if not row["sustained"]:
        row = step(load, pid, rate, seconds)
    print(f"  {subject} {rate}/s: {words(row)}", file=sys.stderr)
    return row


# --- what came of it -------------------------------------------------------------------------------------------------


def words(row: dict[str, Any]) -> str:
    mark = "" if row["sustained"] else "   NOT SUSTAINED"
    return (
        f"{row['cpu_us']:6.1f} us/message   p50 {row['p50_ms']} ms   p99 {row['p99_ms']} ms   lost {row['lost']}   "
        f"PSS {row['pss_mib']} MiB{mark}"
    )


def best(rows: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the row of the highest sustained rate."""
    return max((row for row in rows if row["sustained"]), key=lambda row: int(row["rate"]), default=None)


def at(rows: list[dict[str, Any]], rate: int) -> dict[str, Any] | None:
    """Return the row of one rate, if it was sustained."""
    return next((row for row in rows if row["rate"] == rate and row["sustained"]), None)


def ratios(found: dict[str, list[dict[str, Any]]]) -> list[tuple[str, float | None, str]]:
    """Return what is compared, the ratio and the goal; None where a side is missing."""
    rows = {name: found.get(name, []) for name in SUBJECTS}
    ours, theirs = best(rows["fieldcast"]), best(rows["paho"])
    result = [
        ("highest sustained rate / paho's", _ratio(ours, theirs, "rate"), ">= 3.75"),
        ("CPU per message / paho's, each at its highest", _ratio(ours, theirs, "cpu_us"), "<= 0.14"),
        (
            "CPU per message / paho's at 5,000/s, 1 ms linger",
            _ratio(at(rows["fieldcast-1ms"], 5000), at(rows["paho"], 5000), "cpu_us"),
            "<= 0.35",
        ),
    ]
    for row in rows["raw"]:
        if row["rate"] >= 12_000 and row["sustained"] and (same := at(rows["fieldcast"], row["rate"])):
            result.append((f"CPU per message / raw's at {row['rate']:,}/s", _ratio(same, row, "cpu_us"), "< 1"))
    if rows["node-red"]:
        other = best(rows["node-red"])
        result.append(("highest sustained rate / Node-RED's", _ratio(ours, other, "rate"), ""))
        result.append(("CPU per message / Node-RED's, each at its highest", _ratio(ours, other, "cpu_us"), ""))
    return result


def _ratio(ours: dict[str, Any] | None, theirs: dict[str, Any] | None, key: str) -> float | None:
    return round(ours[key] / theirs[key], 3) if ours is not None and theirs is not None else None


def report(found: dict[str, list[dict[str, Any]]], skipped: dict[str, str]) -> None:
    for subject, rows in found.items():
        top = best(rows)
        print(f"{subject}: highest sustained rate {top['rate'] if top is not None else 0:,}/s")
        for row in rows:
            print(f"  {row['rate']:6,}/s  {words(row)}")
    for subject, why in skipped.items():
        print(f"{subject}: skipped, {why}")
    for what, ratio, goal in ratios(found):
        print(f"{what}: {'not measured' if ratio is None else ratio}{f'   (goal {goal})' if goal else ''}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--node-red", type=Path, help="a directory with node_modules/node-red")
    parser.add_argument("--only", nargs="+", choices=SUBJECTS, default=SUBJECTS)
    asked = parser.parse_args()
    found: dict[str, list[dict[str, Any]]] = {}
    skipped: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="data-path-") as directory, Mosquitto(BROKER) as broker:
        bench = Bench(Path(directory), broker, asked.node_red, asked.quick)
        load = Load(broker.port)
        try:
            for subject in asked.only:
                if why := bench.why_not(subject):
                    skipped[subject] = why
                else:
                    found[subject] = ladder(bench, load, subject, 1.0 if asked.quick else 2.0)
        finally:
            load.close()
    if asked.json:
        told = [{"what": what, "ratio": ratio, "goal": goal} for what, ratio, goal in ratios(found)]
        print(json.dumps({"rows": found, "skipped": skipped, "ratios": told}, indent=2))
    else:
        report(found, skipped)


if __name__ == "__main__":
    main()
