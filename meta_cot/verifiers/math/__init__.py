# SPDX-License-Identifier: Apache-2.0
"""Answers of mathematics: found in a text, read, and compared.

  extract   free text -> its final answer
  lexer     LaTeX or plain notation -> tokens
  reader    tokens -> a tree, see `tree`
  exact     trees without unknowns -> rational numbers
  compare   two trees -> equal, different, or a question for algebra
  algebra   what needs sympy; runs in a worker with limits
  judge     all of these: `equal`, `verdict`
"""

from meta_cot.verifiers.math.extract import final_answer
from meta_cot.verifiers.math.judge import equal
from meta_cot.verifiers.math.judge import verdict

__all__ = ('equal', 'final_answer', 'verdict')
