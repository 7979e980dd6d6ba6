"""The language that publisher and device share: pure values and their formats, no input or output.

Everything that crosses from the workstation to a device, or back, is described here once. Modules in this room import
nothing but the standard library, `msgspec` and `packaging`.
"""
