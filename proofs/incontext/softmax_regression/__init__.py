r"""What is true of "The Closeness of In-Context Learning and Weight Shifting" (arXiv 2304.13276), in the paper's order.

**A few indices decide all sizes.** Entrywise products leave no blocks to compute with, but the identities here are
polynomial in the entries of $f$, $b$ and a direction, on the simplex $\sum_kf_k=1$. With $f=u/\alpha$, $b=t/\alpha$,
$\alpha=\sum_ku_k$, and multiplied by $\alpha^m$, they are homogeneous polynomials of degree $m$ in $(u,t)$, and every
entry of a direction stands beside the $u$ or $t$ with the same index. So no term has more than $m$ different indices;
and no more than $m-1$ where each has a factor $f_k^2$ or $f_kb_k$. Setting the entries of an index to 0 in $u$, $t$ and
the direction makes the identity for $n$ rows the one for $n-1$. So the coefficient of any term can be read off at as
many rows as a term has indices, and what vanishes there vanishes for every $n$. The shipped code meets free entries of
$f$ in data whose first column is $\log f$, at the weights $(1,0)$.
"""

from proofs.incontext.softmax_regression import bounds, derivatives, experiment, shifts

__all__ = ["bounds", "derivatives", "experiment", "shifts"]
