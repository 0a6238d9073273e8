# SPDX-License-Identifier: Apache-2.0
"""q-STaR: what is drawn is to make the solution of the data likelier.

Eqs. 16-20 of arXiv 2501.04682. A policy draws Z; S is the solution that the
data have of the question. The reward of Z is log pi(S | Z, q), no verifier is
asked, and S is learned behind Z by its likelihood:

  max E[log pi(S | Z, q)] - beta KL, Z ~ pi(. | q)

Z is all attempts but the last one, and what the last one has up to the mark of
its answer, which ends Z; all of it where it has no mark. Styles without marks
have in Z what comes before the last attempt.

Axes: Q questions, N trajectories, a row each, C tokens behind a prompt, S
tokens of a solution, X positions of a row.
"""

import bisect
from collections.abc import Iterable, Mapping, Sequence
import dataclasses

from flax import struct
import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines import tokenizers
from meta_cot import sharding
from meta_cot import traces
from meta_cot.objectives import erl2
from meta_cot.problem import Problem
from meta_cot.rl import credit as credit_lib
from meta_cot.rl import episodic
from meta_cot.rl import objective as objective_lib
from meta_cot.rl import scoring
from meta_cot.rollouts import episodes
from meta_cot.rollouts import player
from meta_cot.rollouts import rows as rows_lib
from meta_cot.settings import config as config_lib
from meta_cot.traces import format as format_lib


@struct.dataclass
class Solved:
  """Trajectories, and the solution that follows what is kept of each."""

  rollouts: episodes.Rollouts  # one row each
  kept: jax.Array  # [N] int32, tokens of Z
  solutions: jax.Array  # [N, S] int32
  lengths: jax.Array  # [N] int32, of the solutions


@dataclasses.dataclass(frozen=True)
class Solutions:
  """Puts the solutions of the data behind what was drawn; on the host."""

  # Behind the prompt, from the mark on; and behind the mark. By problem id.
  tokens: Mapping[str, tuple[list[int], list[int]]]
  tokenizer: tokenizers.Tokenizer
  style: str
  length: int  # S
  mesh: jax.sharding.Mesh

  def __call__(
      self, problems: Sequence[Problem], rollouts: episodes.Rollouts,
      host: episodes.Rollouts,
  ) -> Solved:
    """Finds Z of all trajectories of the problems; `host` is NumPy.

    Raises:
      UserError: a token has the mark of an answer and more in it.
    """
    num, kept, behind = len(host.starts), [], []
    for n in range(num):
      start, end = int(host.starts[n, -1]), int(host.ends[n, -1])
      drawn = host.tokens[n, start:end].tolist()
      number, has_mark = self.thought(drawn)
      kept.append(start + number)
      behind.append(self.tokens[
          problems[n * len(problems) // num].id][int(has_mark)])
    solutions, lengths = player.padded(
        behind, self.length, self.tokenizer.pad_id)
    return Solved(rollouts, *sharding.split_batch(
        (np.array(kept, np.int32), solutions, lengths), self.mesh))

  def thought(self, tokens: Sequence[int]) -> tuple[int, bool]:
    """Counts the tokens of a last attempt that Z has; is its mark in them?

    Raises:
      UserError: a token has the mark of an answer and more in it.
    """
    opening, decode = _opening(self.style), self.tokenizer.decode
    if not opening:
      return 0, False
    text = decode(tokens)
    place = text.rfind(opening)
    if place < 0:
      return len(tokens), False
    stop = place + len(opening)
    number = bisect.bisect_left(
        range(len(tokens)), stop, key=lambda k: len(decode(tokens[:k])))
    if decode(tokens[:number]) != text[:stop]:
      raise config_lib.UserError(
          f'objective qstar: the mark {opening!r} of style {self.style!r} is a '
          'part of a longer token; name it in tokenizer.vocabulary.pieces.')
    return number, True


def read(
    records: Iterable[traces.TraceRecord], problems: Sequence[Problem],
    tokenizer: tokenizers.Tokenizer, style: str, length: int, where: str,
    mesh: jax.sharding.Mesh,
) -> Solutions:
  """Takes the first solution that records have of every problem.

  Args:
    records: of problems, with or without a solution.
    problems: that are asked.
    tokenizer: of the policy.
    style: of its texts.
    length: tokens of a solution, at most.
    where: the records are from.
    mesh: devices.

  Raises:
    UserError: a problem has no solution, or too long a one; names it.
  """
  wanted, found = {p.id for p in problems}, {}
  for record in records:
    key = record.problem.id
    if record.solution and key in wanted and key not in found:
      found[key] = _tokens(record, tokenizer, style)
  for problem in problems:
    if problem.id not in found:
      raise config_lib.UserError(
          f'{where}: no solution of problem {problem.id!r}, one of '
          f'{len(wanted - found.keys())} of {len(wanted)}; objective qstar '
          'learns from those of all training problems.')
    number = len(found[problem.id][0])
    if number > length:
      raise config_lib.UserError(
          f'{where}: the solution of problem {problem.id!r} has {number} '
          f'tokens; raise questions.solution_length, {length}.')
  return Solutions(found, tokenizer, style, length, mesh)


def _tokens(record, tokenizer, style) -> tuple[list[int], list[int]]:
  """A solution from its mark on, and behind it, each with its end."""
  text = traces.render((
      traces.Start(record.problem.question),
      traces.Answer('\n'.join(
          record.nodes[i].step for i in record.solution[1:]))), style)
  text = text[len(traces.prompt(record.problem, style)):]
  place, mark = format_lib.find_answer(text, style), _opening(style)
  ids = lambda start: [*tokenizer.encode(text[start:]), tokenizer.eos_id]
  return ids(place), ids(place + len(mark))


def _opening(style: str) -> str:
  return format_lib.STYLES[style].OPENING


def check(style: str, num_episodes: int) -> None:
  """Raises a ConfigError where Z is always empty."""
  if num_episodes == 1 and not _opening(style):
    raise config_lib.ConfigError(
        f'config.rl.episodes.num_episodes: got 1 with objective qstar and '
        f'style {style!r}, which has no mark between search and answer; must '
        'be at least 2.')


def assemble(
    prompts_QxP: jax.Array, prompt_lengths_Q: jax.Array, solved: Solved, *,
    pad_id: int, multiple: int = 1,
) -> rows_lib.Rows:
  """Makes the rows of prompt, Z and S; arguments as of `rows.assemble`."""
  rows = rows_lib.assemble(
      prompts_QxP, prompt_lengths_Q, _spliced(solved), pad_id=pad_id,
      multiple=multiple)
  num, width = rows.targets.shape
  first_N = jnp.repeat(prompt_lengths_Q, num // len(prompt_lengths_Q))
  new_NxX = jnp.arange(1, width + 1)[None] - (first_N + solved.kept)[:, None]
  return rows.replace(
      is_given=(new_NxX >= 0) & (new_NxX < solved.lengths[:, None]))


def _spliced(solved: Solved) -> episodes.Rollouts:
  """The rollouts with the solution in the place of what is not kept."""
  drawn, length = solved.rollouts, solved.solutions.shape[1]
  longer = lambda x_NxC, fill: jnp.pad(
      x_NxC, ((0, 0), (0, length)), constant_values=fill)
  tokens_NxC = longer(drawn.tokens, 0)
  behind_NxC = jnp.arange(tokens_NxC.shape[1])[None] - solved.kept[:, None]
  is_kept_NxC = behind_NxC < 0
  return drawn.replace(
      tokens=jnp.where(is_kept_NxC, tokens_NxC, jnp.take_along_axis(
          solved.solutions, jnp.clip(behind_NxC, 0, length - 1), axis=1)),
      log_probs=jnp.where(is_kept_NxC, longer(drawn.log_probs, 0.0), 0.0),
      is_sampled=is_kept_NxC & longer(drawn.is_sampled, False),
      episode=jnp.where(is_kept_NxC, longer(drawn.episode, -1), -1),
      lengths=solved.kept + solved.lengths)


@dataclasses.dataclass(frozen=True)
class QStar(episodic.Episodic):
  """A policy gradient on Z by the likelihood of S, and that of S itself."""

  @property
  def needs(self) -> frozenset[str]:
    return super().needs | {'log_probs', 'solutions'}

  @property
  def is_by_advantage(self) -> bool:
    return False

  def weights(
      self, num_episodes: int, progress: jax.Array | float) -> jax.Array:
    """Returns zeros: no verdict counts."""
    del progress
    return jnp.zeros(num_episodes, jnp.float32)

  def credit(self, evidence: credit_lib.Evidence) -> credit_lib.Credit:
    rows, verdicts = evidence.rows, evidence.verdicts
    reward_N = jnp.sum(
        jnp.where(rows.is_given, evidence.log_probs, 0.0), axis=1)
    one = lambda x: jnp.ones_like(x)
    rewards = jnp.zeros_like(verdicts.rewards).at[:, -1].set(reward_N)
    evidence = evidence.replace(verdicts=credit_lib.Verdicts(
        rewards=rewards, is_taken=one(verdicts.is_taken),
        is_judged=one(verdicts.is_judged), discounts=one(verdicts.discounts),
        tokens_before=jnp.zeros_like(verdicts.tokens_before)))
    given = self.by_returns(
        evidence, erl2.reward_weights(rewards.shape[1], 0.0))
    return given.replace(
        rewards=reward_N, is_flat=jnp.zeros_like(given.is_flat))

  def loss(
      self, scores: scoring.Scores, batch: objective_lib.Batch,
      kl_coefficient: jax.Array,
  ) -> tuple[jax.Array, objective_lib.Sums]:
    is_drawn_RxX = batch.is_trained & batch.rows.is_sampled
    losses_RxX, sums = super().loss(
        scores, batch.replace(is_trained=is_drawn_RxX), kl_coefficient)
    return jnp.where(
        batch.rows.is_given, -scores.plain, losses_RxX), sums
