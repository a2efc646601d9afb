"""What the dynamics of deep linear networks offers to be compared with."""
