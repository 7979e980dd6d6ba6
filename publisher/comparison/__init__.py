"""What differs between two versions of a class or a release, in words and as a source diff."""
