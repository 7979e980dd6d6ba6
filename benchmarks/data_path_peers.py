"""What Fieldcast is compared with in `data_path.py`: loops as one writes them by hand, and a Node-RED flow.

    data_path_peers.py paho|raw PORT

Each takes `{"s": …, "t": …, "v": [six numbers]}` and gives the same with `"y"`, the weighted sum. QoS 0 both ways.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from data_path_load import IN_TOPIC, OUT_TOPIC, connect, publish_head, subscribe

__all__ = ["install_node_red", "node_red"]

GAIN = np.arange(1, 7, dtype=np.float64)
FUNCTION = (
    "const gain = [1, 2, 3, 4, 5, 6]; let y = 0;"
    "for (let at = 0; at < 6; at++) y += msg.payload.v[at] * gain[at];"
    "msg.payload.y = y; msg.topic = '" + OUT_TOPIC + "'; return msg;"
)


def answer(payload: bytes) -> bytes:
    """Do the work of one message."""
    message = json.loads(payload)
    message["y"] = float((np.asarray(message["v"], np.float64) * GAIN).sum())
    return json.dumps(message).encode()


def paho_loop(port: int) -> None:
    """The hand-written loop: paho, a callback, json, numpy, publish."""
    import paho.mqtt.client as mqtt

    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id="peer-paho")
    client.max_queued_messages_set(0)
    client.on_connect = lambda client, *_: client.subscribe(IN_TOPIC, 0)
    client.on_message = lambda client, _, message: client.publish(OUT_TOPIC, answer(message.payload), 0)
    client.connect("127.0.0.1", port)
    client.loop_forever()


def raw_loop(port: int) -> None:
    """No client library: packets cut out of a socket's bytes, answers of one read sent together."""
    sock = connect(port, "peer-raw")
    subscribe(sock, IN_TOPIC)
    sock.settimeout(None)
    buffer = bytearray()
    while data := sock.recv(65_536):
        buffer += data
        answers = [answer(payload) for payload in payloads(buffer)]
        if answers:
            sock.sendall(b"".join([publish_head(OUT_TOPIC, len(one)) + one for one in answers]))


def payloads(buffer: bytearray) -> list[bytes]:
    """Cut whole packets off and return the payloads of publications at QoS 0."""
    found, start, size = [], 0, len(buffer)
    while start + 2 <= size:
        at, shift, length = start + 1, 0, 0
        while at < size:
            length |= (buffer[at] & 127) << shift
            shift += 7
            at += 1
            if not buffer[at - 1] & 128:
                break
        else:
            break
        if at + length > size:
            break
        if buffer[start] >> 4 == 3:
            topic = buffer[at] << 8 | buffer[at + 1]
            found.append(bytes(buffer[at + 2 + topic : at + length]))
        start = at + length
    del buffer[:start]
    return found


def install_node_red(directory: Path, timeout_seconds: float) -> str:
    """Install Node-RED into `directory` with npm; return why there is none, empty when there is."""
    if shutil.which("npm") is None or shutil.which("node") is None:
        return "npm is not installed"
    directory.mkdir(parents=True, exist_ok=True)
    command = ["npm", "install", "--no-audit", "--no-fund", "--prefix", str(directory), "node-red@4"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_seconds, check=False)
    except subprocess.TimeoutExpired:
        return f"npm install node-red took longer than {timeout_seconds:.0f} s"
    return "" if done.returncode == 0 else f"npm install node-red failed: {done.stderr.strip()[-200:]}"


def node_red(installed: Path, directory: Path, port: int, http_port: int) -> list[str]:
    """Write the flow (MQTT in, JSON, function, MQTT out) into `directory` and return the command that runs it."""
    directory.mkdir(parents=True, exist_ok=True)
    broker: dict[str, Any] = {"id": "b1", "type": "mqtt-broker", "broker": "127.0.0.1", "port": str(port)}
    broker |= {"clientid": "peer-node-red", "autoConnect": True, "usetls": False, "protocolVersion": "4"}
    broker |= {"keepalive": "60", "cleansession": True}
    take = {"id": "i1", "type": "mqtt in", "z": "t1", "topic": IN_TOPIC, "qos": "0", "datatype": "json"}
    give = {"id": "o1", "type": "mqtt out", "z": "t1", "topic": "", "qos": "0", "retain": "", "broker": "b1"}
    flow = [
        {"id": "t1", "type": "tab", "label": "bench"},
        broker,
        take | {"broker": "b1", "wires": [["f1"]], "inputs": 0},
        {"id": "f1", "type": "function", "z": "t1", "func": FUNCTION, "outputs": 1, "wires": [["o1"]]},
        give | {"wires": []},
    ]
    (directory / "flows.json").write_text(json.dumps(flow))
    settings = {"uiHost": "127.0.0.1", "uiPort": http_port, "flowFile": "flows.json"}
    settings |= {"telemetry": {"enabled": False}, "logging": {"console": {"level": "warn"}}}
    (directory / "settings.js").write_text(f"module.exports = {json.dumps(settings)};\n")
    script = installed / "node_modules" / "node-red" / "red.js"
    return ["node", str(script), "-u", str(directory)]


def main() -> None:
    {"paho": paho_loop, "raw": raw_loop}[sys.argv[1]](int(sys.argv[2]))


if __name__ == "__main__":
    main()
