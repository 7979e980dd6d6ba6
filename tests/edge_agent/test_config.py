"""The configuration file: what a good one becomes, and one clear line for everything that can be wrong with one."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_agent.config import CsvInput, MqttInput, MqttOutput, SqliteOutput, Timestamp, load
from edge_agent.contract.errors import ConfigError

GOOD = """
[device]
id = "dev-1"
fleet = "plant"
labels = {line = "3"}

[broker]
url = "mqtt://broker.local"

[channel.staging]
root = "1.root.json"

[slot.activity]
channel = "staging"
tunable = {threshold = 0.5, "net.bias" = [1, 2]}

[slot.activity.input]
source = "mqtt"
topic = "sensors/+/imu"
columns = {ax = "acc.x", ay = {path = "acc.y", scale = 9.81, unit = "m/s2"}}
timestamp = {path = "t", unit = "ms"}
sequence = "n"

[slot.activity.output]
sink = "sqlite"
path = "out.db"
"""


def write(directory: Path, text: str) -> Path:
    for name in ("1.root.json", "data.csv", "cert.pem", "key.pem", "pw"):
        (directory / name).touch()
    path = directory / "agent.toml"
    path.write_text(text)
    return path


def test_a_device_may_have_no_broker_at_all(tmp_path: Path) -> None:
    source = 'source = "csv"\npath = "data.csv"\nrate_hz = 10\n'
    text = GOOD.replace('[broker]\nurl = "mqtt://broker.local"\n', "")
    begin, end = text.index('source = "mqtt"'), text.index("[slot.activity.output]")
    assert load(write(tmp_path, text[:begin] + source + text[end:])).broker is None
    own = text.replace('sequence = "n"', 'broker = "mqtt://sensors"')
    config = load(write(tmp_path, own))
    assert config.broker is None
    assert isinstance(config.slot["activity"].input, MqttInput)
    assert config.broker_of(config.slot["activity"].input).host == "sensors"
    with pytest.raises(ConfigError, match="topic results has no broker"):
        config.broker_of(MqttOutput(topic="results"))


def test_a_good_file(tmp_path: Path) -> None:
    config = load(write(tmp_path, GOOD))
    slot = config.slot["activity"]
    assert (config.device.id, config.device.fleet, config.device.labels) == ("dev-1", "plant", {"line": "3"})
    assert config.device.state == Path("/var/lib/edge-agent")
    assert (config.broker.host, config.broker.port, config.broker.tls) == ("broker.local", 1883, False)
    assert config.channel["staging"].root == tmp_path / "1.root.json"
    assert slot.tunable == {"threshold": 0.5, "net.bias": [1, 2]}
    assert isinstance(slot.input, MqttInput)
    assert slot.input.qos == 1
    assert slot.input.columns["ax"].path == "acc.x"
    assert (slot.input.columns["ay"].scale, slot.input.columns["ay"].unit) == (9.81, "m/s2")
    assert slot.input.columns["ay"].dtype == "float64"
    assert slot.input.timestamp == Timestamp(path="t", unit="ms")
    assert slot.output == SqliteOutput(path=tmp_path / "out.db", table="output", stream="dev-1/activity")


def test_which_commands_a_device_takes(tmp_path: Path) -> None:
    assert load(write(tmp_path, GOOD)).commands.allow == ["ping", "report", "rollback"]
    assert load(write(tmp_path, GOOD + "[commands]\nallow = []")).commands.allow == []
    with pytest.raises(ConfigError, match=r"commands\.allow: 'exce' is no command; did you mean 'exec'"):
        load(write(tmp_path, GOOD + '[commands]\nallow = ["exce"]'))


def test_csv_mqtt_and_tls(tmp_path: Path) -> None:
    text = GOOD.split("[broker]")[0].replace('fleet = "plant"', 'fleet = "plant"\nstate = "state"') + (
        """
[broker]
url = "mqtts://[::1]:9999"
ca = "cert.pem"
cert = "cert.pem"
key = "key.pem"
username = "me"
password_file = "pw"
[channel.a]
root = "1.root.json"
[slot.s]
channel = "a"
input = {source = "csv", path = "data.csv", timestamp = "t", speed = 4, repeat = true}
[slot.s.output]
sink = "mqtt"
topic = "out/s"
qos = 0
retain = true
stream = "mine"
broker = "mqtt://other:1884"
"""
    )
    (tmp_path / "pw").write_text("")
    path = write(tmp_path, text)
    (tmp_path / "pw").write_text("secret\n")
    config = load(path)
    slot = config.slot["s"]
    assert config.device.state == tmp_path / "state"
    assert (config.broker.address, config.broker.tls, config.broker.password()) == ("::1:9999", True, b"secret")
    assert slot.input == CsvInput(path=tmp_path / "data.csv", timestamp=Timestamp(path="t"), speed=4.0, repeat=True)
    assert isinstance(slot.output, MqttOutput)
    assert (slot.output.stream, slot.output.retain, slot.output.qos) == ("mine", True, 0)
    assert slot.output.broker is not None
    assert slot.output.broker.address == "other:1884"
    assert slot.output.broker.password() is None


CSV = 'source = "csv"\npath = "data.csv"\n'
MQTT_INPUT = GOOD[GOOD.index('source = "mqtt"') : GOOD.index("[slot.activity.output]")]
WRONG = [
    ("unknown section", "[broker]", "[brokr]", "brokr: unknown key; did you mean 'broker'?"),
    ("unknown key", 'fleet = "plant"', 'fleet = "plant"\nlables = {}', "device.lables: unknown key; did you mean 'la"),
    ("missing key", 'fleet = "plant"', "", "device.fleet: missing"),
    ("missing section", '[channel.staging]\nroot = "1.root.json"', "", "channel: missing: the file needs [channel"),
    ("empty section", 'url = "mqtt://broker.local"', "", "broker.url: missing"),
    (
        "no broker",
        '[broker]\nurl = "mqtt://broker.local"',
        "",
        "slot.activity.input.broker: missing: there is no [brok",
    ),
    ("no slot", GOOD[GOOD.index("[slot.activity]") :], "", "slot: missing: the file needs [slot.NAME]"),
    ("section is no table", "[device]", 'device = "x"\n[devic]', "device: expected a table, got the string 'x'"),
    ("wrong type", 'id = "dev-1"', "id = 7", "device.id: expected a string, got the number 7"),
    ("wrong label", '{line = "3"}', "{line = 3}", "device.labels: expected a table whose values are each a string"),
    ("labels are a date", '{line = "3"}', "2024-01-01", "device.labels: expected a table whose values are each"),
    ("device name", '"dev-1"', '"dev/1"', "device.id: device name 'dev/1' is not allowed"),
    ("fleet name", '"plant"', '"a+b"', "device.fleet: fleet name 'a+b' is not allowed"),
    ("slot name", "slot.activity", 'slot."a b"', "slot.a b: slot name 'a b' is not allowed"),
    ("url scheme", "mqtt://broker.local", "mqt://broker.local", "must start with mqtt:// or mqtts://; did you mean"),
    ("url port", "mqtt://broker.local", "mqtt://broker.local:99999", "is not a URL: Port out of range"),
    ("url host", "mqtt://broker.local", "mqtt://:1883", "broker.url: 'mqtt://:1883' must be mqtt://host or"),
    ("url path", "mqtt://broker.local", "mqtt://h/path", "must be mqtt://host or mqtt://host:port"),
    ("url secret", "mqtt://broker.local", "mqtt://me:pw@h", "broker.url: must not hold credentials"),
    ("plain with ca", 'broker.local"', 'broker.local"\nca = "cert.pem"', "broker.url: ca, cert and key need"),
    ("cert alone", 'mqtt://broker.local"', 'mqtts://h"\ncert = "cert.pem"', "broker.key: missing: cert and key go tog"),
    ("key alone", 'mqtt://broker.local"', 'mqtts://h"\nkey = "key.pem"', "broker.cert: missing: cert and key go tog"),
    ("password alone", 'broker.local"', 'broker.local"\npassword_file = "pw"', "broker.username: missing"),
    ("missing file", '"1.root.json"', '"2.root.json"', "channel.staging.root: there is no file /"),
    ("empty path", '"1.root.json"', '""', "channel.staging.root: is empty"),
    ("unknown channel", 'channel = "staging"', 'channel = "stagin"', "no [channel.stagin]; did you mean 'staging'?"),
    ("channel type", 'channel = "staging"', "channel = true", "slot.activity.channel: expected a string, got true"),
    ("no input", "[slot.activity.input]", "[slot.activity.inputs]", "slot.activity.inputs: unknown key; did you m"),
    ("unknown source", 'source = "mqtt"', 'source = "mqqt"', "sysfs; did you mean 'mqtt'?"),
    ("no source", 'source = "mqtt"', "", "slot.activity.input.source: missing: one of command, csv"),
    ("key of another source", 'source = "mqtt"', 'source = "mqtt"\nspeed = 2', "input.speed: unknown key; allowed: "),
    ("no topic", 'topic = "sensors/+/imu"', "", "slot.activity.input.topic: missing"),
    ("bad filter", "sensors/+/imu", "sensors/+x", "input.topic: 'sensors/+x' has a wildcard in a wrong place"),
    ("bad filter", "sensors/+/imu", "a/#/b", "input.topic: 'a/#/b' has a wildcard in a wrong place"),
    ("empty topic", "sensors/+/imu", "", "slot.activity.input.topic: '' is empty, too long"),
    ("qos 2", 'sequence = "n"', "qos = 2", "input.qos: 2 is not supported: use 0 (at most once) or 1"),
    ("qos type", 'sequence = "n"', 'qos = "1"', "input.qos: expected a whole number, got the string '1'"),
    ("qos bool", 'sequence = "n"', "qos = true", "input.qos: expected a whole number, got true"),
    ("no columns", MQTT_INPUT, 'source = "mqtt"\ntopic = "a"\ncolumns = {}\n', "input.columns: name at least one"),
    ("column type", '"acc.x"', "3", "slot.activity.input.columns.ax: expected a table, got the number 3"),
    ("column path", '"acc.x"', '""', "slot.activity.input.columns.ax.path: is empty"),
    ("column key", "scale = 9.81", "sale = 9.81", "columns.ay.sale: unknown key; did you mean 'scale'?"),
    ("scale", "scale = 9.81", "scale = 0", "columns.ay.scale: 0.0 must be finite and not 0"),
    ("scale type", "scale = 9.81", 'scale = "9"', "columns.ay.scale: expected a number, got the string '9'"),
    ("offset", "scale = 9.81", "offset = inf", "columns.ay.offset: inf must be finite"),
    ("dtype", "scale = 9.81", 'dtype = "text"', "columns.ay.dtype: expected one of bool, float64, int64, json, string"),
    (
        "text scale",
        'scale = 9.81, unit = "m/s2"',
        'scale = 2, dtype = "string"',
        "ay.scale: a column of dtype string cannot be scaled",
    ),
    (
        "int offset",
        "scale = 9.81",
        'offset = 2, dtype = "int64"',
        "ay.offset: a column of dtype int64 cannot be scaled",
    ),
    ("text unit", "scale = 9.81", 'dtype = "string"', "columns.ay.unit: a column of dtype string has no unit"),
    (
        "columns list",
        MQTT_INPUT,
        'source = "mqtt"\ntopic = "a"\ncolumns = []\n',
        "columns: expected a table, got an ar",
    ),
    ("time unit", 'unit = "ms"', 'unit = "min"', "timestamp.unit: expected one of ms, ns, s, us, got the string 'min'"),
    ("time path", 'path = "t", ', "", "slot.activity.input.timestamp.path: missing"),
    ("csv without time", MQTT_INPUT, CSV, 'input.timestamp: missing: name the column (timestamp = "time"), or give'),
    ("csv speed", MQTT_INPUT, CSV + "rate_hz = 1\nspeed = -1\n", "input.speed: -1.0 must be a positive factor"),
    ("csv rate", MQTT_INPUT, CSV + "rate_hz = nan\n", "input.rate_hz: nan must be positive"),
    ("csv repeat", MQTT_INPUT, CSV + "rate_hz = 1\nrepeat = 0\n", "input.repeat: 0 must be true, or how many times"),
    ("csv repeat type", MQTT_INPUT, CSV + 'rate_hz = 1\nrepeat = "x"\n', "repeat: expected true or false or a whole"),
    ("csv file", MQTT_INPUT, 'source = "csv"\npath = "no.csv"\nrate_hz = 1\n', "input.path: there is no file /"),
    (
        "unknown sink",
        'sink = "sqlite"',
        'sink = "mysql"',
        "output.sink: 'mysql' is not one of answer, command, http, jsonl, mqtt, sqlite",
    ),
    ("sink type", 'sink = "sqlite"', "sink = 1", "output.sink: expected a string, got the number 1"),
    ("table name", 'path = "out.db"', 'path = "out.db"\ntable = "a-b"', "output.table: 'a-b' cannot name a table"),
    ("table name", 'path = "out.db"', 'path = "out.db"\ntable = "SQLITE_x"', "'SQLITE_x' cannot name a table"),
    (
        "output wildcard",
        'sink = "sqlite"\npath = "out.db"',
        'sink = "mqtt"\ntopic = "a/#"',
        "topic: 'a/#' has a wildca",
    ),
    (
        "output broker",
        'sink = "sqlite"\npath = "out.db"',
        'sink = "mqtt"\ntopic = "a"\nbroker = "x"',
        "output.broker.url",
    ),
    ("output no table", "[slot.activity.output]", "[slot.b]\noutput = 3\n[slot.c]", "slot.b.output: expected a table"),
]


@pytest.mark.parametrize(("case", "old", "new", "words"), WRONG, ids=[f"{one[0]}-{one[2][:20]!r}" for one in WRONG])
def test_every_fault_is_one_clear_line(tmp_path: Path, case: str, old: str, new: str, words: str) -> None:
    assert old in GOOD
    path = write(tmp_path, GOOD.replace(old, new))
    with pytest.raises(ConfigError) as caught:
        load(path)
    lines = str(caught.value).splitlines()
    assert all(line.startswith(f"{path}: ") for line in lines)
    assert [line for line in lines if words in line], lines
    assert len(lines) == 1 or "section" in case or case in ("no input", "output no table", "no slot"), lines


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD.replace("dev-1", "dev 1").replace("mqtt://", "http://").replace('"acc.x"', "1"))
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert len(str(caught.value).splitlines()) == 3


def test_files_need_not_be_there_when_not_checked(tmp_path: Path) -> None:
    path = tmp_path / "agent.toml"
    path.write_text(GOOD)
    assert load(path, check_files=False).channel["staging"].root == tmp_path / "1.root.json"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot be read: No such file or directory"),
        (b"[device\n", "not valid TOML: "),
        (b"\xff\xfe", "not valid TOML: "),
        (b"# " + b"x" * 2**20, "larger than 1048576 bytes"),
        (b"", "device: missing: the file needs [device] with id and fleet"),
    ],
)
def test_what_is_no_configuration(tmp_path: Path, content: bytes | None, words: str) -> None:
    path = tmp_path / "agent.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load(str(path))
    assert str(caught.value).startswith(f"{path}: {words}")
