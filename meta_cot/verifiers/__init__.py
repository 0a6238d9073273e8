# SPDX-License-Identifier: Apache-2.0
"""Exact judges of answers; they never raise on a model's text."""

from meta_cot.verifiers.arithmetic import check as check_arithmetic
from meta_cot.verifiers.math.judge import equal as math_equal

__all__ = ('check_arithmetic', 'math_equal')
