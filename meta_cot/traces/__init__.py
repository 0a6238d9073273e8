# SPDX-License-Identifier: Apache-2.0
"""Search traces: records, events, text styles, training masks, analysis."""

from meta_cot.traces.analysis import analyze
from meta_cot.traces.events import Answer
from meta_cot.traces.events import Exhausted
from meta_cot.traces.events import Jump
from meta_cot.traces.events import linearize
from meta_cot.traces.events import Start
from meta_cot.traces.events import Step
from meta_cot.traces.events import Value
from meta_cot.traces.format import extract_answer
from meta_cot.traces.format import parse
from meta_cot.traces.format import prompt
from meta_cot.traces.format import render
from meta_cot.traces.masks import prune
from meta_cot.traces.masks import trained_ranges
from meta_cot.traces.masks import trains_end
from meta_cot.traces.record import Node
from meta_cot.traces.record import TraceRecord

__all__ = (
    'Answer', 'Exhausted', 'Jump', 'Node', 'Start', 'Step', 'TraceRecord',
    'Value', 'analyze', 'extract_answer', 'linearize', 'parse', 'prompt',
    'prune', 'render', 'trained_ranges', 'trains_end')
