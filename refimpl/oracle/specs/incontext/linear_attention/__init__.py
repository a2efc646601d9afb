"""What "Transformers learn in-context by gradient descent" (arXiv 2212.07677) offers to be compared with."""
