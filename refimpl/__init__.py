"""Reference implementations of machine-learning papers in NumPy.

Every function is written once and runs on ``float64`` (the reference value), ``float32`` and ``float16`` (the honest
low-precision baseline), ``longdouble`` (the truth for float64 code) and ``object`` arrays of SymPy expressions
(the subject of a proof).
"""

__version__ = "0.1.0"
