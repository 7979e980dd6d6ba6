"""What a pipeline is made into, and whether it comes out of it again elsewhere."""
