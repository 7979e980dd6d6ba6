"""Updates that come on a stick."""
