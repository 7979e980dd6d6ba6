"""Prometheus' text exposition format 0.0.4: families of samples, written and escaped. It knows no metric of ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

__all__ = ["CONTENT_TYPE", "Exposition"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
LABEL_CHARACTERS_MAX = 120


class Exposition:
    """Collects samples by family; `text` is what is scraped. A counter's name ends in `_total`."""

    def __init__(self) -> None:
        self._families: dict[str, list[str]] = {}

    def gauge(self, name: str, words: str, value: float, **labels: str) -> None:
        """Add a sample of a gauge."""
        self._family(name, "gauge", words).append(f"{name}{_labels(labels)} {_number(value)}")

    def counter(self, name: str, words: str, value: float, **labels: str) -> None:
        """Add a sample of a counter."""
        self._family(name, "counter", words).append(f"{name}{_labels(labels)} {_number(value)}")

    def histogram(
        self, name: str, words: str, bounds: Sequence[float], counts: Sequence[int], total: float, **labels: str
    ) -> None:
        """Add a histogram: `counts` by upper bound, the last of them without one; `total` is the sum of values."""
        lines, seen = self._family(name, "histogram", words), 0
        for bound, count in zip([*map(_number, bounds), "+Inf"], counts, strict=True):
            seen += count
            lines.append(f"{name}_bucket{_labels({**labels, 'le': bound})} {seen}")
        lines += [f"{name}_sum{_labels(labels)} {_number(total)}", f"{name}_count{_labels(labels)} {seen}"]

    def _family(self, name: str, kind: str, words: str) -> list[str]:
        return self._families.setdefault(name, [f"# HELP {name} {words}", f"# TYPE {name} {kind}"])

    @property
    def text(self) -> str:
        """Everything, family by family."""
        return "\n".join(line for family in self._families.values() for line in family) + "\n"


def _labels(labels: Mapping[str, str]) -> str:
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items()) + "}" if labels else ""


def _escaped(value: str) -> str:
    return value[:LABEL_CHARACTERS_MAX].replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else repr(float(value))
