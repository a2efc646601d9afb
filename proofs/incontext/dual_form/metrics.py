"""What the paper's metrics are (Section 4.2)."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

from proofs.ledger import Control, Evidence, at_most, claim, equal
from refimpl.incontext.dual_form import recall_to_finetuning

EPS = float(np.finfo(np.float64).eps)  # two means of the same share


def _of_all_that_finetuning_gets_right(zsl_correct: Any, icl_correct: Any, ft_correct: Any) -> float:
    return float(np.mean(icl_correct[ft_correct])) if ft_correct.any() else float("nan")


@claim(
    "dual_form/D10",
    title="Recall to fine-tuning is the accuracy of in-context learning where fine-tuning repairs",
    source="Section 4.2 and Table 2",
    statement=r"\mathrm{Rec2FTP}\in[0,1],\quad=1\iff(\neg z\wedge f\Rightarrow c),\quad "
    r"c\perp f\mid\neg z\Rightarrow\mathrm{Rec2FTP}=P(c\mid\neg z)",
    method="property",
    scope="all outcomes of up to 3 queries; independence by all product designs with up to 3 of each outcome among the "
    "queries that are wrong without demonstrations, and any among the others. So its chance level is that accuracy, "
    "and not one half",
    control=Control(
        "the queries that are right without demonstrations count too", recall=_of_all_that_finetuning_gets_right
    ),
)
def recall_is_an_accuracy(
    rng: np.random.Generator, recall: Callable[[Any, Any, Any], float] = recall_to_finetuning
) -> Evidence:
    outside = wrong_at_one = wrongly_undefined = count = 0
    for n in range(1, 4):
        for outcome in itertools.product((False, True), repeat=3 * n):
            zsl, icl, ft = np.array(outcome).reshape(3, n)
            found, repaired = recall(zsl, icl, ft), ~zsl & ft
            count += 1
            wrongly_undefined += np.isnan(found) != (not repaired.any())
            outside += not (np.isnan(found) or 0 <= found <= 1)
            wrong_at_one += bool(repaired.any()) and (found == 1) != bool(icl[repaired].all())

    distances = []
    for icl_wrong, icl_right, ft_wrong, ft_right in itertools.product(range(4), range(4), range(4), range(1, 4)):
        if icl_wrong + icl_right:
            icl = np.repeat([False, True], [icl_wrong, icl_right])
            ft = np.repeat([False, True], [ft_wrong, ft_right])
            among_wrong = np.array([(False, *pair) for pair in itertools.product(icl, ft)])
            among_right = np.column_stack([np.ones(5, dtype=bool), rng.integers(2, size=(5, 2)).astype(bool)])
            distances.append(abs(recall(*np.concatenate([among_wrong, among_right]).T) - icl.mean()))
    return (
        equal(count, 8 + 64 + 512, "outcomes")
        & equal(outside, 0, "outside [0, 1]")
        & equal(wrong_at_one, 0, "1 at the wrong place")
        & equal(wrongly_undefined, 0, "undefined at the wrong place")
        & at_most(max(distances), EPS, "distance from the accuracy under independence")
    )
