"""Which devices may connect, what they say, and what of it counts."""
