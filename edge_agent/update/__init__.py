"""What changes what runs: trust, admission, deployment and the store. Knows nothing of frames and workers."""
