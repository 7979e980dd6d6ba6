"""Counterparts for tests: they behave as the real thing does, and can be told to misbehave."""
