"""What the paper offers to be compared with."""
