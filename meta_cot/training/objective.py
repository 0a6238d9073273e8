# SPDX-License-Identifier: Apache-2.0
"""What is learned from records: one module per objective.

A new objective is a module with `example` and `loss`, as `supervised` has them,
and a line in OBJECTIVES.
"""

import types

from meta_cot.training import supervised
from meta_cot.training import valued

OBJECTIVES = types.MappingProxyType({
    'sft': supervised,
    'value': valued,
})
WITH_VALUES = ('value',)  # have value targets in their batches
