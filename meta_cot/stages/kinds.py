# SPDX-License-Identifier: Apache-2.0
"""The kinds of stages there are."""

from collections.abc import Mapping
import types

from meta_cot.stages import base
from meta_cot.stages import data
from meta_cot.stages import evaluate
from meta_cot.stages import figure
from meta_cot.stages import label
from meta_cot.stages import quality
from meta_cot.stages import rl
from meta_cot.stages import search
from meta_cot.stages.train import run as train

KINDS: Mapping[str, base.Stage] = types.MappingProxyType({
    'problems': data.PROBLEMS,
    'traces': data.TRACES,
    'tokenizer': data.TOKENIZER,
    'train': train.STAGE,
    'search': search.STAGE,
    'label': label.STAGE,
    'quality': quality.STAGE,
    'rl': rl.STAGE,
    'evaluate': evaluate.STAGE,
    'figure': figure.STAGE,
})
