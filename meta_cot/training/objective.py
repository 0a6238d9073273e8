# SPDX-License-Identifier: Apache-2.0
"""What is learned from records: one module per objective.

A new objective is a module with `example`, `loss` and `about` (what the policy
folder says besides), as `supervised` has them, and a line in OBJECTIVES.
"""

import types

from meta_cot.training import preferred
from meta_cot.training import supervised
from meta_cot.training import valued
from meta_cot.training import verdict

OBJECTIVES = types.MappingProxyType({
    'sft': supervised,
    'value': valued,
    'verdict': verdict,
    'dpo': preferred,
})
WITH_VALUES = ('value',)  # have value targets in their batches
OF_STATES = ('value', 'verdict', 'dpo')  # learn from single attempts
WITH_REFERENCE = ('dpo',)  # the start stays beside what is trained
