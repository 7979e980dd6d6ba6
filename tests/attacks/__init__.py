"""Attacks by name, and the guards without which they succeed."""
