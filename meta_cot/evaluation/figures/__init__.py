# SPDX-License-Identifier: Apache-2.0
"""Figures of the paper; each makes a `base.Figure` of groups."""

import types

from meta_cot.evaluation.figures import compute
from meta_cot.evaluation.figures import depth
from meta_cot.evaluation.figures import pairs
from meta_cot.evaluation.figures import played
from meta_cot.evaluation.figures import threaded
from meta_cot.evaluation.figures import training
from meta_cot.evaluation.figures import values

FIGURES = types.MappingProxyType({
    'training': training.training, 'nodes': compute.nodes,
    'compute': compute.compute, 'discounted': compute.discounted,
    'within': compute.within, 'corrections': played.corrections,
    'turns': played.turns, 'unsolved': played.unsolved,
    'verifiers': values.verifiers,
    'questions': values.questions, 'values': values.values,
    'guides': values.guides, 'votes': values.votes,
    'depth': depth.depth, 'lookahead': depth.lookahead, 'table': pairs.table,
    'window': threaded.window, 'sequential': threaded.sequential,
    'total': threaded.total,
})
