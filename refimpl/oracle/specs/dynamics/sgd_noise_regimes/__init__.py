"""What of the paper's noise regimes a faster implementation may be compared with."""
