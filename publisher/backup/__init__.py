"""Home and record in one file, and back."""
