"""The command ``refimpl`` with the toy paper in its catalogue: ``python -m tests.toy_command check toy``."""

import sys

from refimpl import catalogue

if __name__ == "__main__":
    from tests import toy_claims

    catalogue.PAPERS = (*catalogue.PAPERS, toy_claims.PAPER)
    sys.modules["proofs.examples.toy"] = sys.modules["refimpl.examples.toy"] = toy_claims
    # Modules keep the catalogue that they see when they are first imported, and toy_claims imports the ledger.
    from refimpl.cli import main

    sys.exit(main())
