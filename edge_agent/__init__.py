"""What authors import: `from edge_agent import Filter, Pipeline, Frame, Window, OnnxModel, …`.

Names are resolved on first use, so that `import edge_agent` alone loads neither numpy nor onnxruntime: the agent's
own process lives in this package too and must stay light.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edge_agent.running import RunMetrics as RunMetrics
    from edge_agent.running import arun as arun
    from edge_agent.running import run as run
    from edge_agent.sdk.align import Align as Align
    from edge_agent.sdk.arithmetic import Arithmetic as Arithmetic
    from edge_agent.sdk.code import Code as Code
    from edge_agent.sdk.filter import Filter as Filter
    from edge_agent.sdk.filter import apply as apply
    from edge_agent.sdk.filter import parameters_of as parameters_of
    from edge_agent.sdk.frame import Frame as Frame
    from edge_agent.sdk.map import Map as Map
    from edge_agent.sdk.onnx_model import OnnxModel as OnnxModel
    from edge_agent.sdk.parallel import Parallel as Parallel
    from edge_agent.sdk.pass_through import PassThrough as PassThrough
    from edge_agent.sdk.pipeline import Health as Health
    from edge_agent.sdk.pipeline import Input as Input
    from edge_agent.sdk.pipeline import Limits as Limits
    from edge_agent.sdk.pipeline import Output as Output
    from edge_agent.sdk.pipeline import Pipeline as Pipeline
    from edge_agent.sdk.pipeline import StageError as StageError
    from edge_agent.sdk.serializable import Offence as Offence
    from edge_agent.sdk.serializable import validate_serializable as validate_serializable
    from edge_agent.sdk.standardize import Standardize as Standardize
    from edge_agent.sdk.text import Text as Text
    from edge_agent.sdk.window import Window as Window

__version__ = "0.1.0"

_HOMES = {
    "Align": "sdk.align",
    "Arithmetic": "sdk.arithmetic",
    "Code": "sdk.code",
    "Filter": "sdk.filter",
    "Frame": "sdk.frame",
    "Health": "sdk.pipeline",
    "Limits": "sdk.pipeline",
    "Input": "sdk.pipeline",
    "Map": "sdk.map",
    "Offence": "sdk.serializable",
    "OnnxModel": "sdk.onnx_model",
    "Output": "sdk.pipeline",
    "Parallel": "sdk.parallel",
    "PassThrough": "sdk.pass_through",
    "Pipeline": "sdk.pipeline",
    "RunMetrics": "running",
    "StageError": "sdk.pipeline",
    "Standardize": "sdk.standardize",
    "Text": "sdk.text",
    "Window": "sdk.window",
    "apply": "sdk.filter",
    "arun": "running",
    "parameters_of": "sdk.filter",
    "run": "running",
    "validate_serializable": "sdk.serializable",
}

__all__ = [
    "__version__",
    *_HOMES,
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        value = getattr(importlib.import_module(f"edge_agent.{home}"), name)
    except ModuleNotFoundError as error:
        if error.name != "numpy":
            raise
        raise ImportError(f"edge_agent.{name} needs numpy: pip install 'fieldcast[device]'", name="numpy") from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
