# SPDX-License-Identifier: Apache-2.0
"""Tasks: problems with ground truth and exact verifiers."""

from meta_cot.problem import Problem, Verdict
from meta_cot.tasks.base import Task
from meta_cot.tasks.base import test_splits
from meta_cot.tasks.factory import make
from meta_cot.tasks.factory import name_of
from meta_cot.tasks.factory import settings_of

__all__ = (
    'Problem', 'Task', 'Verdict', 'make', 'name_of', 'settings_of',
    'test_splits')
