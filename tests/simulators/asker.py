"""Asks a device's inference interface again and again, from a process that imports nothing of ours.

    python -I asker.py PORT MODEL FACTORS_JSON

One line on standard input ends it; then one JSON object says what came of all requests. FACTORS maps versions to what
a right answer is: x times that.
"""

from __future__ import annotations

import http.client
import json
import sys
import threading
import time

__all__: list[str] = []


def main() -> None:
    port, model, factors = int(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
    ending = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.readline(), ending.set()), daemon=True).start()
    told: dict[str, object] = {}
    statuses: dict[str, int] = {}
    turns: list[str] = []
    wrong: list[object] = []
    answered: list[int] = []
    broken, number, slowest = 0, 0, 0.0
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    while not ending.is_set():
        number += 1
        x = number % 100 / 200
        body = {"id": str(number), "inputs": [{"name": "x", "shape": [1], "datatype": "FP64", "data": [x]}]}
        began = time.monotonic()
        try:
            connection.request("POST", f"/v2/models/{model}/infer", json.dumps(body))
            response = connection.getresponse()
            answer = json.loads(response.read())
        except (OSError, http.client.HTTPException):
            broken += 1
            connection.close()
            time.sleep(0.05)
            continue
        slowest = max(slowest, time.monotonic() - began)
        statuses[str(response.status)] = statuses.get(str(response.status), 0) + 1
        if response.status != 200:
            wrong.append(answer)
            continue
        version = answer["model_version"]
        if not turns or turns[-1] != version:
            turns.append(version)
            print(json.dumps({"version": version}), flush=True)
        right = [x * factors[version]] if version in factors else None
        if answer["id"] != str(number) or answer["outputs"][0]["data"] != right:
            wrong.append([x, answer])
        answered.append(answer["parameters"]["first_sequence"])
        time.sleep(0.004)
    told |= {"requests": number, "statuses": statuses, "turns": turns, "broken": broken, "slowest": slowest}
    told |= {"wrong": wrong[:5], "answered": answered}
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
