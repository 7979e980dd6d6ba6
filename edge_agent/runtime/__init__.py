"""What runs on the device's data: supervisor and worker, sources and sinks, health. Knows nothing of updates."""
