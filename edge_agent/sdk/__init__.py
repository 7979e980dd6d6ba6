"""What authors subclass and compose: filters, frames, pipelines, windows, models.

The module paths in here are wire format: a manifest names built-in filters as `edge_agent.sdk.window:Window`. Keep
them. The agent's own process never imports this room; workers and the workstation do.
"""
