"""`import edge_agent` is light, and every promised name is there."""

from __future__ import annotations

import subprocess
import sys

import pytest

import edge_agent


def test_import_loads_no_numeric_library_and_is_quick():
    code = (
        "import sys, time; start = time.process_time(); import edge_agent; taken = time.process_time() - start\n"
        "heavy = {'numpy', 'onnxruntime', 'msgspec', 'cloudpickle', 'edge_agent.sdk'} & set(sys.modules)\n"
        "assert not heavy, heavy\nassert edge_agent.__version__\nprint(taken)"
    )
    # CPU time and the best of five: other work on the machine must not count.
    taken = [
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
        for _ in range(5)
    ]
    assert min(taken) < 0.05


def test_names_are_listed_and_resolved():
    for name in edge_agent.__all__:
        assert getattr(edge_agent, name) is not None
    assert {"Filter", "Frame", "Pipeline", "Window", "OnnxModel", "Standardize"} <= set(dir(edge_agent))


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Filtre'"):
        _ = edge_agent.Filtre


def test_without_numpy_the_message_says_what_to_install():
    code = (
        "import sys; sys.modules['numpy'] = None\nimport edge_agent\n"
        "try: edge_agent.Frame\nexcept ImportError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "edge_agent.Frame needs numpy: pip install 'fieldcast[device]'"
