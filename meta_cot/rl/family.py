# SPDX-License-Identifier: Apache-2.0
"""The objectives of reinforcement learning, by name."""

from collections.abc import Callable
import functools

from meta_cot.rl import apa
from meta_cot.rl import credit as credit_lib
from meta_cot.rl import episodic
from meta_cot.rl import objective as objective_lib
from meta_cot.rl import qstar
from meta_cot.rl import star

# J = E[r_K], the final episode only (Eq. 14); J = E[sum_k r_k] (Eq. 13); what
# is between them, where earlier episodes count `earlier_weight`; every episode
# by itself, whatever follows; standard reinforcement learning; E-RL^2 first,
# RL^2 after it, in the manner of the two stages of SCoRe (arXiv 2409.12917,
# sec. 5); expert iteration; regression on the advantages of E-RL^2; the
# likelihood of the data's solutions.
OBJECTIVES: dict[str, Callable[
    [credit_lib.CreditConfig, objective_lib.LossConfig],
    objective_lib.Objective]] = {
    'erl2': functools.partial(episodic.Episodic, early=0.0, late=0.0),
    'rl2': functools.partial(episodic.Episodic, early=1.0, late=1.0),
    'weighted': functools.partial(episodic.Episodic, early=None, late=None),
    'myopic': functools.partial(
        episodic.Episodic, early=1.0, late=1.0, is_myopic=True),
    'single': functools.partial(
        episodic.Episodic, early=0.0, late=0.0, is_single=True),
    'score': functools.partial(episodic.Episodic, early=0.0, late=1.0),
    'star': lambda credit, loss: star.Imitation(),
    'apa': functools.partial(apa.Apa, early=0.0, late=0.0),
    'qstar': functools.partial(qstar.QStar, early=0.0, late=0.0),
}
