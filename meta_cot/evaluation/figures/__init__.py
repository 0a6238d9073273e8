# SPDX-License-Identifier: Apache-2.0
"""Figures of the paper, made of what stages left."""

import types

from meta_cot.evaluation.figures import compute
from meta_cot.evaluation.figures import depth
from meta_cot.evaluation.figures import pairs
from meta_cot.evaluation.figures import played
from meta_cot.evaluation.figures import training
from meta_cot.evaluation.figures import values

# Each makes a `base.Figure` of groups.
FIGURES = types.MappingProxyType({
    'training': training.training,
    'verifiers': values.verifiers,
    'nodes': compute.nodes,
    'compute': compute.compute,
    'questions': values.questions,
    'values': values.values,
    'guides': values.guides,
    'discounted': compute.discounted,
    'within': compute.within,
    'turns': played.turns,
    'unsolved': played.unsolved,
    'votes': values.votes,
    'depth': depth.depth,
    'lookahead': depth.lookahead,
    'table': pairs.table,
})
