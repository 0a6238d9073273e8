# SPDX-License-Identifier: Apache-2.0
"""A sample of the rollouts that a run learned from, token by token.

Of every iteration the first trajectories are kept: all samples of its first
question, then of its second; questions are asked in a random order. A row of
`rollouts.jsonl` is a row that was trained. docs/rl.md has the fields.

Axes: R kept rows, X positions of a row, T tokens of a row, E episodes.
"""

from collections.abc import Callable, Iterator
import functools
import json
from typing import Any

import jax
import numpy as np

from meta_cot import sharding
from meta_cot import types
from meta_cot.model import config as model_config
from meta_cot.problem import Problem
from meta_cot.rl import learner as learner_lib
from meta_cot.rl import objective as objective_lib
from meta_cot.rl import scoring
from meta_cot.rl import settings as settings_lib
from meta_cot.runtime import distributed
from meta_cot.runtime import files
from meta_cot.training import metrics

NAME = 'rollouts.jsonl'  # in the folder of a run
# What every row has, by type; the rest is None where it was not computed.
FIELDS = dict(
    step=int, question=int, sample=int, row=int, problem=str, text=str,
    tokens=list, episode=list, is_trained=list, behaviour=list, trainer=list,
    entropy=list, advantages=list, rewards=list, num_tokens=list,
    is_finished=list, is_undecided=list, answers=list)


def jit_keep(
    model: model_config.ModelConfig, settings: settings_lib.RlConfig,
    num_rows: int, mesh: jax.sharding.Mesh,
) -> Callable[..., tuple[objective_lib.Batch, scoring.Scores]]:
  """Makes (params, batch) -> first rows and their scores, on every device."""

  @functools.partial(jax.jit, out_shardings=sharding.replicated(mesh))
  def keep(params, batch):
    first = jax.tree.map(
        lambda x: sharding.constrain(
            x[:num_rows], 'act_batch', *[None] * (x.ndim - 1)),
        batch.replace(prompts=None))
    return first, scoring.score(
        model, params, first.rows.tokens, first.rows.targets,
        sampling=settings.episodes.sampling(),
        num_chunks=settings.updates.num_loss_chunks)

  return keep


class Store:
  """Appends rows to a file, as `MetricsWriter` does.

  Opened at iteration k it first removes the rows behind it that an interrupted
  run left. One process writes; in others all of this does nothing.
  """

  def __init__(self, directory: files.Path, step: int):
    """Opens the file in `directory`; `step` is 0 at the start of a run."""
    self._rows = None
    if distributed.is_primary():
      path = files.path(directory) / NAME
      kept = [row for row in read(path) if row['step'] <= step]
      self._rows = files.Appender(path, b''.join(map(_line, kept)))

  def write(self, rows: Iterator[dict[str, Any]]) -> None:
    """Adds rows."""
    if self._rows is not None:
      self._rows.append(b''.join(map(_line, rows)))

  def sync(self) -> None:
    """Makes the rows durable; before a checkpoint, which must not lack any."""
    if self._rows is not None:
      self._rows.sync()

  def close(self) -> None:
    """Makes the rows durable and closes the file."""
    if self._rows is not None:
      self._rows.close()


class Keeper:
  """Keeps rollouts of a run while it learns from them."""

  def __init__(
      self, learner: learner_lib.Learner,
      keep: Callable[..., tuple[objective_lib.Batch, scoring.Scores]],
      store: Store):
    """Compiles nothing; `keep` is of `jit_keep`."""
    self._learner, self._keep, self._store = learner, keep, store

  def __call__(
      self, params: types.Params, experience: learner_lib.Experience,
      iteration: int,
  ) -> None:
    """Writes the first trajectories of iteration number `iteration`, from 0.

    `params` are all of the policy before it learns from them.
    """
    learner = self._learner
    batch, scores = jax.device_get(self._keep(params, experience.batch))
    self._store.write(rows(
        batch, scores, experience,
        [learner.problems[q] for q in experience.questions],
        step=iteration + 1, num_samples=learner.config.questions.num_samples,
        num_kept=learner.config.num_kept_rollouts))


def rows(
    batch: objective_lib.Batch, scores: scoring.Scores,
    experience: learner_lib.Experience, problems: list[Problem], *, step: int,
    num_samples: int, num_kept: int,
) -> Iterator[dict[str, Any]]:
  """Makes the rows of the first `num_kept` trajectories.

  Args:
    batch: NumPy, of the rows that are kept, at least.
    scores: of the same.
    experience: of the whole iteration.
    problems: of its questions.
    step: number of the iteration, from 1 on.
    num_samples: G.
    num_kept: trajectories.
  """
  judged, seen = experience.judged, {}
  for r, n in enumerate(batch.rows.trajectory.tolist()):
    if n >= num_kept:
      return
    seen[n] = seen.get(n, -1) + 1
    tokens = _of_tokens(batch, scores, r)
    if tokens is None:
      continue
    problem = problems[n // num_samples]
    yield dict(
        step=step, question=experience.questions[n // num_samples],
        sample=n % num_samples, row=seen[n], problem=problem.id,
        text=problem.question, rewards=_short(judged.rewards[n]),
        num_tokens=judged.num_tokens[n].tolist(),
        is_finished=judged.is_finished[n].tolist(),
        is_undecided=judged.is_undecided[n].tolist(),
        answers=judged.answers[n].tolist()) | tokens


def _of_tokens(batch, scores, r) -> dict[str, list] | None:
  """What is known of the tokens of a row, [T] each; None where none was drawn.

  Position x has what is said of token x + 1, and a row ends with the last
  token that was drawn, or given behind it.
  """
  is_shown_X = batch.rows.is_sampled[r] | batch.is_trained[r]
  shown, = np.nonzero(is_shown_X)
  if not len(shown):
    return None
  end = shown[-1] + 1
  number = lambda x_RxX: None if x_RxX is None else _short(
      np.append(np.float32(0), np.where(is_shown_X, x_RxX[r], 0)[:end]))
  kl_RxX = None
  if batch.reference is not None:
    kl_RxX = scores.plain - batch.reference
  return dict(
      tokens=[int(batch.rows.tokens[r, 0]),
              *batch.rows.targets[r, :end].tolist()],
      episode=[-1, *batch.rows.episode[r, :end].tolist()],
      is_trained=[0, *batch.is_trained[r, :end].astype(int).tolist()],
      behaviour=number(batch.rows.behaviour), trainer=number(scores.sampled),
      entropy=number(scores.entropy), advantages=number(batch.advantages),
      kl=number(kl_RxX), values=number(batch.old_values))


def read(path: files.Path) -> list[dict[str, Any]]:
  """Reads the complete rows of a file; a torn last line is left out.

  Raises:
    UserError: another line is damaged; names it.
  """
  return metrics.read(path, **FIELDS)


def _short(values) -> list[float]:
  """The shortest numbers that are these float32, as whole ones if they are."""
  return [0 if not x else float(str(x)) for x in np.asarray(values, np.float32)]


def _line(row: dict[str, Any]) -> bytes:
  return json.dumps(row, separators=(',', ':')).encode() + b'\n'
