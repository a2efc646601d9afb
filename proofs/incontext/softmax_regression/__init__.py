r"""What is true of "The Closeness of In-Context Learning and Weight Shifting" (arXiv 2304.13276), in the paper's order.

**A few indices decide all sizes.** Entrywise products leave no blocks to compute with, but the identities here are
polynomial in the entries of $f$, $b$ and a direction, on the simplex $\sum_kf_k=1$. Multiplied by a power of
$\alpha=\sum_ku_k$ they are polynomial in $u$ with $f=u/\alpha$, of the same degree $m$, and homogeneous; and in each
term every entry of $b$ or of a direction stands beside the entry of $u$ with the same index, so that no term has more
than $m$ different indices. Setting the entries of an index to 0 in $u$, $b$ and the direction makes the identity for
$n$ rows the one for $n-1$. So the coefficient of any term can be read off at $n=m$ rows, and what vanishes there
vanishes for every $n$. The shipped code meets free entries of $f$ in data whose first column is $\log f$, at the
weights $(1,0)$.
"""

from proofs.incontext.softmax_regression import bounds, derivatives, experiment, shifts

__all__ = ["bounds", "derivatives", "experiment", "shifts"]
