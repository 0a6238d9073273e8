# SPDX-License-Identifier: Apache-2.0
"""Worlds in which something is hidden: what E-RL^2 is for.

  python -m meta_cot.main --config=configs/worlds.py:safe --workdir=runs/safe

A small model learns from demonstrations to read what is said of attempts, and
is tuned with each objective; `episodes` is the report. docs/rl.md says what the
best policies reach. Variants are the tasks of meta_cot/tasks/worlds, and
`phase`: `safe` with four weights of earlier attempts (benchmarks/phase.py).
`safe` tunes controls too, `expressions` one, three and five attempts, answered,
unanswered and shuffled (benchmarks/worlds.py).
"""

from collections.abc import Mapping
from typing import Any

import ml_collections

from configs import base
from configs import erl2
from configs import kinds
from configs import tasks

_START = 'sft/episodes'

# Stages in which earlier attempts cannot help, by what they change of episodes.
CONTROLS = {
    'shuffled': dict(feedback='shuffled'), 'unanswered': dict(feedback='none'),
    'forgetful': dict(window=0)}

# Stages of `expressions` beside five attempts, and one, that are answered.
TURNS = {
    'three': dict(num_episodes=3),
    **{f'three_{name}': dict(num_episodes=3, **CONTROLS[name])
       for name in ('shuffled', 'unanswered')},
    **{name: CONTROLS[name] for name in ('shuffled', 'unanswered')}}


def get_config(variant: str = 'safe') -> ml_collections.ConfigDict:
  """Makes the experiment of one variant.

  Raises:
    ValueError: no such variant; lists them.
  """
  change = base.choose(VARIANTS, variant)
  c = experiment(getattr(tasks, _TASKS.get(variant, variant))())
  change(c)
  return c


def experiment(task: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
  """Makes the experiment of a task with feedback and teacher `reader`.

  Its symbols but digits are to be named in `tokenizer.vocabulary.pieces`.
  """
  c = base.get_config()
  c.style = 'free_text'
  c.model.update(dict(
      vocab_size=64, num_layers=2, embed_dim=64, head_dim=16, mlp_dim=172,
      max_length=64, value_head='none'))
  c.task = task
  c.problems = kinds.problems(num_shards=1)
  c.traces = kinds.traces(
      strategies='reader', num_shards=1, num_processes=1)
  c.tokenizer = kinds.tokenizer()
  c.tokenizer.vocabulary.update(dict(vocab_size=64, number_tokens=9))
  c.sft = kinds.train(
      arms=('episodes',), num_tokens=1_500_000, batch_size=32,
      eval_every_steps=600, save_every_steps=600)
  c.sft.data.sequence_length = 64
  c.rl = _rl(c)
  c.episodes = _report(c.rl)
  c.stages = (
      'problems', 'traces', 'tokenizer', 'sft', 'rl', 'episodes')
  return c


def _rl(c: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
  """A stage that tunes the reader, with each objective and three seeds."""
  r = kinds.rl(
      start=_START, seeds=(0, 1, 2), num_iterations=300, eval_every=150,
      save_every=200, num_eval_problems=1_000, num_eval_samples=1)
  r.questions.rest = 0  # its next draw hides something else
  r.episodes.update(dict(
      num_episodes=c.task.get_ref('num_attempts'), episode_length=4,
      feedback='task'))
  r.loss.kl_in = 'none'
  r.optimizer.learning_rate = 3e-4
  return r


def _report(
    rl: ml_collections.ConfigDict, name: str = 'rl',
) -> ml_collections.ConfigDict:
  """The stage that says what episodes of the start and of a stage reach."""
  e = kinds.evaluate(
      policies=(_START, name), start=_START, solvers=('samples', 'revisions'),
      num_curve_problems=0, num_problems=rl.get_ref('num_eval_problems'))
  e.samples.update(dict(  # best of N that nobody answers
      num_samples=12, max_new_tokens=rl.episodes.get_ref('episode_length')))
  for key in erl2.PLAYED:  # they follow what is set on the command line
    e.episodes[key] = rl.episodes.get_ref(key)
  e.episodes.update(dict(
      num_samples=4, num_questions=rl.questions.num_questions,
      num_slots=rl.questions.num_slots))
  return e


def _others(
    c: ml_collections.ConfigDict, changes: Mapping[str, Mapping[str, Any]],
) -> None:
  """Adds stages that differ from `rl` in their episodes, a report of each."""
  for name, change in changes.items():
    c[name] = r = _rl(c)
    for key in ('questions', 'credit', 'loss', 'updates', 'optimizer'):
      r[key] = c.rl[key]  # the same: set for one, set for all
    for key in ('seeds', 'num_iterations', 'eval_every', 'num_eval_problems'):
      r[key] = c.rl.get_ref(key)
    r.objectives = ('erl2',)
    r.episodes = ml_collections.ConfigDict({
        key: change[key] if key in change else c.rl.episodes.get_ref(key)
        for key in c.rl.episodes})
    c[f'{name}_episodes'] = _report(r, name)
    c.stages += (name, f'{name}_episodes')


def _safe(c: ml_collections.ConfigDict) -> None:
  _pieces(c)
  _others(c, CONTROLS)


def _pieces(c: ml_collections.ConfigDict) -> None:
  c.tokenizer.vocabulary.pieces = tuple('abcdefgh?+-')


def _harbour(c: ml_collections.ConfigDict) -> None:
  c.tokenizer.vocabulary.pieces = tuple('UDLR+-.')
  c.task.num_train = 60_000
  c.sft.num_tokens = 5_000_000
  c.rl.episodes.episode_length = 8
  c.rl.num_iterations = 200
  c.rl.optimizer.learning_rate = 5e-4


def _hilo(c: ml_collections.ConfigDict) -> None:
  c.tokenizer.vocabulary.pieces = tuple('<>=')
  c.sft.num_tokens = 500_000
  _larger(c)


def _expressions(c: ml_collections.ConfigDict) -> None:
  c.tokenizer.vocabulary.update(dict(
      vocab_size=128, number_tokens=80, pieces=tuple('x>*()+-,?')))
  c.model.update(dict(vocab_size=128, max_length=96))
  c.task.update(dict(
      num_attempts=5, num_forms=1, largest=40, largest_input=1,
      num_train=30_000))
  c.sft.num_tokens = 3_000_000
  c.sft.optimizer.learning_rate = 2e-3
  c.sft.data.sequence_length = 96
  c.rl.episodes.update(dict(episode_length=8, feedback_length=6))
  c.rl.num_iterations = 80
  c.rl.optimizer.learning_rate = 5e-4
  _others(c, TURNS)


def _mastermind(c: ml_collections.ConfigDict) -> None:
  c.tokenizer.vocabulary.pieces = tuple('abcdef')
  c.task.num_train = 30_000
  c.sft.num_tokens = 3_000_000
  _larger(c)
  c.rl.loss.entropy_bonus = 0.02


def _larger(c: ml_collections.ConfigDict) -> None:
  """More trajectories, larger steps, and a bonus for entropy at first.

  Without the bonus the first attempt soon is always the same.
  """
  c.rl.questions.update(dict(num_questions=64, num_slots=512))
  c.rl.loss.update(dict(entropy_bonus=0.05, entropy_bonus_end=0.0))
  c.rl.num_iterations = 200
  c.rl.optimizer.learning_rate = 1e-3


def _phase(c: ml_collections.ConfigDict) -> None:
  _pieces(c)
  c.rl.objectives = ('erl2', 'rl2')
  for name, weight in (('quarter', 0.25), ('half', 0.5)):
    c[name] = _rl(c)
    c[name].objectives, c[name].credit.earlier_weight = ('weighted',), weight
    c[name].seeds = c.rl.get_ref('seeds')
    c[name].num_iterations = c.rl.get_ref('num_iterations')
  c.episodes.policies = (_START, 'rl', 'quarter', 'half')
  c.stages = (*c.stages[:-1], 'quarter', 'half', 'episodes')


_TASKS = dict(phase='safe')
VARIANTS = {
    'phase': _phase,
    'safe': _safe, 'harbour': _harbour, 'hilo': _hilo,
    'mastermind': _mastermind, 'expressions': _expressions}
