# SPDX-License-Identifier: Apache-2.0
"""Records with targets of states -> verdicts that a model learns to write."""

import dataclasses

import numpy as np

from data_pipelines import arms
from data_pipelines import examples
from data_pipelines import tokenizers
from data_pipelines import values
from meta_cot.settings import config as config_lib
from meta_cot.traces import format as format_lib
from meta_cot.traces import from_tree
from meta_cot.traces import record as record_lib


@dataclasses.dataclass(frozen=True)
class Verdicts:
  """Makes question, steps, and a verdict on them; picklable.

  Attempts are drawn as often as they were made, and of an attempt one of its
  states, each as likely. The verdict is right with the probability that the
  state's target says. Where `chain` is set a verification stands before it: the
  state after every step, recomputed by the task, up to the first step that
  leads nowhere. What is trained is what follows the mark that asks.

  Raises:
    UserError: a mark or a verdict is not one token.
  """

  arm: arms.Arm
  config: examples.VerdictConfig
  tokenizer: tokenizers.Tokenizer
  style: str
  is_random = True  # which attempt, which state, which verdict

  def __post_init__(self):
    for name in ('ask', 'right', 'wrong'):
      text = getattr(self.config, name)
      tokens = tokenizers.of_setting(self.tokenizer, text)
      if len(tokens) != 1 or text != self.tokenizer.decode(
          tokens, show_control=True):
        raise config_lib.UserError(
            f'data.verdict.{name}: got {text!r}; must be one token of the '
            'tokenizer: name it in tokenizer.vocabulary.pieces.')

  def __call__(
      self, record: record_lib.TraceRecord, rng: np.random.Generator
  ) -> np.ndarray | None:
    """Returns `examples.POSITION` [n]; None where the state has no target.

    Raises:
      UserError: the record has no targets, or those of other tokens; or the
        tokenizer cannot write a verification.
    """
    values.check(record, self.tokenizer)
    nodes, problem = record.nodes, record.problem
    if self.arm.is_permuted:
      problem = self.arm.task.vary(problem, rng)
    way = from_tree.path(nodes, values.draw_end(record, rng))
    way = way[:int(rng.integers(len(way))) + 1]
    target = nodes[way[-1]].value
    if target is None:
      return None
    asked = [
        *self.tokenizer.encode_prompt(
            format_lib.prompt(problem, style=self.style)),
        *(token for i in way[1:] for token in nodes[i].tokens),
        *tokenizers.of_setting(self.tokenizer, self.config.ask)]
    verdict = self.config.right if rng.random() < target else self.config.wrong
    tokens = [
        *asked, *self._chain([nodes[i].state for i in way[1:]]),
        *tokenizers.of_setting(self.tokenizer, verdict), self.tokenizer.eos_id]
    example = np.zeros(len(tokens) - 1, examples.POSITION)
    example['tokens'], example['targets'] = tokens[:-1], tokens[1:]
    example['weights'][len(asked) - 1:] = 1
    return example

  def _chain(self, states: list[str]) -> list[int]:
    """The tokens of a verification."""
    end = self.config.chain
    if end is None:
      return []
    first_bad = next((i for i, s in enumerate(states) if not s), len(states))
    text = ''.join(state + end for state in states[:first_bad])
    tokens = self.tokenizer.encode(text)
    if self.tokenizer.decode(tokens) != text:
      raise config_lib.UserError(
          f'data.verdict.chain: the tokenizer cannot write {text!r}; train it '
          'on texts that have all of its characters, or set it to None.')
    return tokens
