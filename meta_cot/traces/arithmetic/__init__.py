# SPDX-License-Identifier: Apache-2.0
"""The notation of number puzzles: operations, styles, what a text tells."""

from meta_cot.traces import drafts
from meta_cot.traces.arithmetic import compact
from meta_cot.traces.arithmetic import stream_of_search

STYLES = {
    'compact': compact.Compact(),
    'compact_drafts': drafts.Drafts(compact.Compact()),
    'compact_digits': compact.Compact(is_compared=True),
    'compact_threads': compact.Compact(has_threads=True),
    'compact_digits_threads': compact.Compact(
        is_compared=True, has_threads=True),
    'stream_of_search': stream_of_search,
}
