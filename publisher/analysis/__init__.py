"""What an author's source means, found by reading it: imports, data files, names reached, canonical form.

Nothing here runs the author's code. `publisher.closure` and `publisher.fingerprint` are the doors to this room.
"""
