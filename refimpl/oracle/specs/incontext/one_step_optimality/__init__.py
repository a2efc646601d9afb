"""What others may be compared with: the layer, its population loss, and the closed forms of its optimum."""
