# SPDX-License-Identifier: Apache-2.0
"""Figures of the paper; each makes a `base.Figure` of groups."""

import types

from meta_cot.evaluation.figures import compute
from meta_cot.evaluation.figures import depth
from meta_cot.evaluation.figures import difficulty
from meta_cot.evaluation.figures import pairs
from meta_cot.evaluation.figures import played
from meta_cot.evaluation.figures import threaded
from meta_cot.evaluation.figures import training
from meta_cot.evaluation.figures import values

FIGURES = types.MappingProxyType({f.__name__: f for f in (
    training.training, compute.nodes, compute.compute, compute.discounted,
    compute.within, played.corrections, played.turns, played.revised,
    played.unsolved, difficulty.difficulty, difficulty.attempts,
    values.verifiers, values.questions, values.values, values.guides,
    values.votes, depth.depth, depth.lookahead, pairs.table, threaded.window,
    threaded.sequential, threaded.total)})
