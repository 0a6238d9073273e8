# SPDX-License-Identifier: Apache-2.0
"""Tasks: problems with ground truth and exact verifiers."""

from meta_cot.problem import Problem, Verdict
from meta_cot.tasks.base import Task
from meta_cot.tasks.factory import make

__all__ = ('Problem', 'Task', 'Verdict', 'make')
