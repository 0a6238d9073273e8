# SPDX-License-Identifier: Apache-2.0
"""Measuring solvers: estimates with intervals, and figures."""

import os

from meta_cot.evaluation.statistics import difference_interval
from meta_cot.evaluation.statistics import wilson
from meta_cot.solvers.choosing import pass_at_k

os.environ['MPLBACKEND'] = 'agg'  # figures are files, whatever the shell says

__all__ = ['difference_interval', 'pass_at_k', 'wilson']
