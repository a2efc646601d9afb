"""What "What learning algorithm is in-context learning?" offers to be compared with, a module for each of its parts."""
