# SPDX-License-Identifier: Apache-2.0
"""Exact judges of answers; they never raise on a model's text."""

from meta_cot.verifiers.arithmetic import check as check_arithmetic

__all__ = ('check_arithmetic',)
