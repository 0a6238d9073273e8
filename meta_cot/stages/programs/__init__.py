# SPDX-License-Identifier: Apache-2.0
"""All jitted programs of an experiment, to be compiled without running."""

from meta_cot.program import Program
from meta_cot.stages.programs.registry import build
from meta_cot.stages.programs.registry import check
from meta_cot.stages.programs.registry import for_accelerator
from meta_cot.stages.programs.registry import names
from meta_cot.stages.programs.registry import PROGRAMS

__all__ = ['PROGRAMS', 'Program', 'build', 'check', 'for_accelerator', 'names']
