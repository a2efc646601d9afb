"""The report: the ledger and the papers as a static site that reads offline.

:mod:`.mathematics` turns docstrings into HTML with MathML, :mod:`.source` finds a paper's constructions and shows their
code, :mod:`.draw` draws every figure, :mod:`.graph` the dependencies between claims, and :mod:`.site` writes the pages.
Needs the extra ``report``.
"""
