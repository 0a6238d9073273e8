# SPDX-License-Identifier: Apache-2.0
"""Language-model steps as what a search expands."""

from meta_cot.reasoning.node import ends_with
from meta_cot.reasoning.node import Node
from meta_cot.reasoning.node import texts
from meta_cot.reasoning.prompts import axes
from meta_cot.reasoning.prompts import Prompts
from meta_cot.reasoning.prompts import select_rows
from meta_cot.reasoning.prompts import start
from meta_cot.reasoning.step import LanguageStep

__all__ = [
    'LanguageStep', 'Node', 'Prompts', 'axes', 'ends_with', 'select_rows',
    'start', 'texts']
