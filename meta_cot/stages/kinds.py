# SPDX-License-Identifier: Apache-2.0
"""The kinds of stages there are."""

from collections.abc import Mapping
import types

from meta_cot.stages import base
from meta_cot.stages import evaluate
from meta_cot.stages import problems
from meta_cot.stages import rl
from meta_cot.stages import search
from meta_cot.stages import tokenizer
from meta_cot.stages import traces
from meta_cot.stages.train import stage as train

KINDS: Mapping[str, base.Stage] = types.MappingProxyType({
    'problems': problems.STAGE,
    'traces': traces.STAGE,
    'tokenizer': tokenizer.STAGE,
    'train': train.STAGE,
    'search': search.STAGE,
    'rl': rl.STAGE,
    'evaluate': evaluate.STAGE,
})
