"""The demonstration: three real agents on this machine, real recordings, three releases, and an independent count."""

from publisher.demo.play import run_demo

__all__ = ["run_demo"]
