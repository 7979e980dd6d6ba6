"""A pipeline as a manifest, and a pipeline from one, on the workstation.

`to_manifest` only looks at the pipeline. `from_manifest` runs the code that the manifest names: see
`edge_agent.rebuild`. Bytes from a device have no business here (T9).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edge_agent.contract.digest import BlobRef
from edge_agent.rebuild import from_manifest, load_class
from edge_agent.sdk.filter import Filter
from edge_agent.sdk.pipeline import Pipeline
from publisher.packaging import Package, pack

__all__ = ["from_manifest", "load_class", "to_manifest"]


def to_manifest(
    target: Pipeline | Filter | Any,
    *,
    keep: Callable[[BlobRef, bytes], object] | None = None,
    root: Path | None = None,
    require_portable: bool = False,
) -> dict[str, Any]:
    """Return the manifest of a pipeline, or of a single filter or estimator, as JSON-able values.

    `keep` receives every blob that the manifest pins, as `from_manifest` will ask for them. Columns need not be
    declared. Raises `AuthorError` for what cannot be shipped.
    """
    package = _packed(target, root, require_portable)
    if keep is not None:
        for data in package.blobs.values():
            keep(BlobRef.of(data), data)
    made: dict[str, Any] = json.loads(package.data)
    return made


def _packed(target: Any, root: Path | None, require_portable: bool) -> Package:
    if not isinstance(target, Pipeline):
        alone = Pipeline("alone", [target])
        ((name, _),) = alone.stages
        target = Pipeline(name, [target])
    return pack(target, root=root, require_portable=require_portable, declared=False)
