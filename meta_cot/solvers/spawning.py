# SPDX-License-Identifier: Apache-2.0
"""Parents that open threads, each in a window of its own.

The solver plays trajectories of `rollouts.threads`; a policy that opens none
writes one text. What is judged is the parent's last text.
"""

from collections.abc import Sequence
import dataclasses
import functools
import time

import numpy as np

from meta_cot import decode
from meta_cot import sharding
from meta_cot.problem import Problem
from meta_cot.rollouts import judge as judge_lib
from meta_cot.rollouts import player as player_lib
from meta_cot.rollouts import threads
from meta_cot.settings import config as config_lib
from meta_cot.solvers import base
from meta_cot.solvers import revising
from meta_cot.tasks import base as base_task
from meta_cot.traces import format as format_lib
from meta_cot.types import PRNGKey

NAME = 'threads'


@dataclasses.dataclass(frozen=True)
class Threads:
  """How many threads there may be, and how they are written."""

  num_joins: int = config_lib.setting(low=0)  # of a parent, at most
  num_threads: int = config_lib.setting(low=1)  # of a join, at most
  window: int = config_lib.setting(low=1)  # of a parent, tokens
  thread_window: int = config_lib.setting(low=2)  # of a thread
  temperature: float = config_lib.setting(low=0.0)  # 0: greedy


@dataclasses.dataclass(frozen=True)
class Settings(revising.Settings):
  """Those of trajectories of attempts, and of trajectories with threads."""

  threads: Threads = config_lib.setting()


class Spawner:
  """The solver: trajectories with threads for every problem.

  An attempt's details have the parent's text and those of its threads; the
  tokens that were drawn one after another, which are the parent's and at every
  join those of the longest thread; the longest text with its question,
  `window`; the number of threads, and of joins.
  """

  def __init__(self, settings: Settings, task: base_task.Task, mesh):
    """Compiles nothing."""
    self._settings = settings
    self._task = task
    self._mesh = mesh
    self._player = functools.cache(self._make_player)

  def __call__(
      self, policy: base.Policy, problems: Sequence[Problem], rng: PRNGKey, *,
      first: int = 0,
  ) -> base.Outcomes:
    """See `base.Solver`."""
    width = player_lib.prompt_width(policy.tokenizer, problems, policy.style)
    player = self._player(policy.model, policy.tokenizer, policy.style, width)
    start, told = time.perf_counter(), []
    num_live = num_steps = 0
    for at in range(0, len(problems), player.num_questions):
      some = problems[at:at + player.num_questions]
      asked = player.ask(
          some, [first + at + i for i in range(len(some))])
      played = player.fetch(player(policy.params, asked, rng))
      num_live += int(played.num_live)
      num_steps += int(played.num_steps)
      told += self._read(policy, player, some, played)
    seconds = time.perf_counter() - start
    grid = lambda name, dtype: np.array(
        [row[name] for row in told], dtype).reshape(len(problems), -1)
    details = set(told[0]) - {'is_correct', 'is_finished', 'tokens', 'answer'}
    copies = self._settings.num_samples
    return base.Outcomes(
        is_correct=grid('is_correct', bool),
        is_finished=grid('is_finished', bool),
        num_tokens=grid('tokens', np.float64), answers=grid('answer', object),
        seconds=seconds,
        occupancy=num_live / max(1, num_steps * player.num_slots),
        details={name: base.objects([
            [row[name] for row in told[i:i + copies]]
            for i in range(0, len(told), copies)])
                 for name in sorted(details)})

  def _read(self, policy, player, problems, played) -> list[dict]:
    """What there is to say of every trajectory."""
    rules, told = player.rules, []
    for n in range(len(problems) * player.num_samples):
      problem = problems[n // player.num_samples]
      rows = slice(n * rules.num_rows, (n + 1) * rules.num_rows)
      one = threads.read(
          rules, played.tokens[rows], played.starts[rows],
          played.lengths[rows])
      decode_text = policy.tokenizer.decode
      prompt = format_lib.prompt(problem, policy.style)
      text = prompt + decode_text(one.parent)
      answer, verdict = judge_lib.of_text(
          self._task, problem, text, policy.style, is_finished=one.is_finished)
      told.append(dict(
          is_correct=verdict.is_correct, is_finished=one.is_finished,
          tokens=one.num_tokens, answer=answer, text=text,
          reason=verdict.reason, sequential=one.num_sequential,
          window=one.longest + len(policy.tokenizer.encode_prompt(prompt)),
          threads=len(one.threads), joins=one.num_joins,
          threads_text=[prompt + decode_text(t) for t in one.threads]))
    return told

  def _make_player(self, model, tokenizer, style, width) -> player_lib.Player:
    up = lambda number: sharding.up_to_parts(number, self._mesh)
    return player_lib.Player(
        model, tokenizer, self._mesh, style=style, width=width,
        rules=rules(self._settings, tokenizer, style),
        num_questions=up(self._settings.num_questions),
        num_samples=self._settings.num_samples,
        num_slots=up(self._settings.num_slots))


def rules(settings: Settings, tokenizer, style: str) -> threads.Rules:
  """Makes the rules of a trajectory, in tokens.

  Raises:
    ConfigError: the style has no threads, or a mark of it is not one token.
  """
  if not format_lib.has_threads(style):
    some = ' or '.join(
        name for name in format_lib.STYLES if format_lib.has_threads(name))
    raise config_lib.ConfigError(
        f'solvers: got {NAME!r}; a policy of style {style!r} opens no threads, '
        f'one of style {some} does.')
  mine, marks = settings.threads, format_lib.STYLES[style].MARKS
  try:
    ids = {
        f'{name}_id': player_lib.token_of(tokenizer, mark)
        for name, mark in marks.items()}
  except ValueError as e:
    raise config_lib.ConfigError(
        f'solvers: got {NAME!r}; {e} Name it in tokenizer.vocabulary.pieces.'
    ) from e
  return threads.Rules(
      num_joins=mine.num_joins, num_threads=mine.num_threads,
      window=mine.window, thread_window=mine.thread_window,
      sampling=decode.Sampling(
          mine.temperature, settings.top_k, settings.top_p),
      stop_ids=tokenizer.eos_ids, **ids)
