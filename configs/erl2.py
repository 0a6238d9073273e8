# SPDX-License-Identifier: Apache-2.0
"""E-RL^2: reinforcement learning on the last of several attempts.

  python -m meta_cot.main --config=configs/erl2.py:tiny --workdir=runs/tiny

The experiments of `configs/countdown.py` with one more arm, `revisions` (wrong
attempts, then the right one) or `revisions_kept` (the right one again and
again), and two more stages: `rl`, which tunes it, and `episodes`, its report.

Variants:
  tiny    continues countdown.py:tiny: in the workdir of a finished one only
          what is new runs. Twelve minutes behind the training on two CPU cores.
          After 4M tokens of training E-RL^2 takes the third attempt from 24%
          to 52%.
  laptop  continues countdown.py:laptop: two attempts, by a model that has seen
          three. A quarter of an hour behind the training on two CPU cores.
          E-RL^2 takes the second attempt from 45% to 62%, RL^2 to 61%.
  traces_tiny     RL on the search itself, behind countdown.py:tiny: one long
          episode, gamma 1 and .98, beside expert iteration and more supervised
          training, three seeds each (`configs/rl_traces.py`).
  traces_laptop   the same behind countdown.py:laptop.
  traces_prompts  one policy, three prompts of gamma, behind countdown.py:tiny.
  traces_mrt      progress rewards (MRT) beside outcomes, behind the same.
  traces_mixed    a start that was tuned on twelve strategies, behind the same.
  gpu     problems and model of countdown.py:gpu in style compact, with arm
          `revisions` only. One accelerator; not yet run.
  pod     the same of countdown.py:pod. A TPU v5e-8; not yet run, compiled.
"""

import ml_collections

from configs import base
from configs import countdown
from configs import kinds
from configs import rl_traces

# What episodes of the report have in common with those that are trained.
PLAYED = (
    'num_episodes', 'episode_length', 'max_tokens', 'window', 'reset',
    'feedback', 'feedback_length', 'give_up', 'temperature', 'top_k', 'top_p')


def get_config(variant: str = 'tiny') -> ml_collections.ConfigDict:
  """Makes the experiment of one variant.

  Raises:
    ValueError: no such variant; lists them.
  """
  change = base.choose(VARIANTS, variant)
  if variant in rl_traces.VARIANTS:
    return change()
  c = countdown.get_config(variant)
  c.rl = kinds.rl()
  change(c)
  c.sft.arms += (c.rl.start.rpartition('/')[2],)
  c.episodes = kinds.evaluate(
      policies=(c.rl.start, 'rl'), start=c.rl.start,
      solvers=('samples', 'revisions'), num_curve_problems=0,
      num_problems=c.rl.num_eval_problems, token_grid=tuple(
          c.rl.episodes.episode_length * e
          for e in range(1, c.rl.episodes.num_episodes + 1)))
  for key in PLAYED:  # they follow what is set on the command line
    c.episodes.episodes[key] = c.rl.episodes.get_ref(key)
  c.episodes.episodes.update(dict(
      num_samples=c.rl.num_eval_samples,
      num_questions=c.rl.questions.num_questions,
      num_slots=c.rl.questions.num_slots))
  c.episodes.samples.update(dict(
      max_new_tokens=c.rl.episodes.episode_length,
      num_samples=c.rl.num_eval_samples * c.rl.episodes.num_episodes))
  c.stages += ('rl', 'episodes')
  return c


def _tiny(c: ml_collections.ConfigDict) -> None:
  c.rl.num_iterations = 150
  c.rl.episodes.episode_length = 20
  c.rl.optimizer.learning_rate = 5e-4


def _laptop(c: ml_collections.ConfigDict) -> None:
  c.rl.update(dict(
      start='sft/revisions_kept', num_iterations=120, num_eval_problems=512,
      eval_every=30, save_every=30))
  c.rl.questions.update(dict(num_questions=64, num_slots=512))
  c.rl.episodes.update(dict(num_episodes=2, episode_length=16))
  c.rl.loss.kl_coefficient = 0.01
  c.rl.optimizer.learning_rate = 5e-4


def _gpu(c: ml_collections.ConfigDict) -> None:
  _compact(c, largest=99)
  c.task.num_train = 200_000
  c.sft.update(dict(num_tokens=50_000_000, batch_size=128))
  c.sft.data.sequence_length = 512
  c.evaluate.samples.update(dict(batch_size=1024, max_new_tokens=32))
  c.rl.num_iterations = 300
  c.rl.questions.update(dict(
      num_questions=128, num_samples=8, num_slots=1024))


def _pod(c: ml_collections.ConfigDict) -> None:
  # Eight v5e chips; docs/pods.md has what the programs take of them.
  _compact(c, largest=500)
  c.sft.update(dict(num_tokens=1_000_000_000, batch_size=512))
  c.sft.data.sequence_length = 1024
  c.evaluate.samples.update(dict(batch_size=1024, max_new_tokens=32))
  c.rl.num_iterations = 500
  c.rl.questions.update(dict(
      num_questions=256, num_samples=16, num_slots=2048))
  c.rl.episodes.num_episodes = 4
  c.rl.updates.update(dict(
      num_minibatches=2, num_accumulation=2, num_loss_chunks=2))
  c.rl.optimizer.learning_rate = 3e-5


def _compact(c: ml_collections.ConfigDict, largest: int) -> None:
  """One arm, in style compact; numbers up to `largest` are one token each."""
  c.sft.arms = ()
  c.evaluate.update(dict(reference=None, teacher='compact'))
  c.style = c.traces.strategies = 'compact'
  c.task.max_value = c.tokenizer.vocabulary.number_tokens = largest


VARIANTS = {
    'tiny': _tiny, 'laptop': _laptop, **rl_traces.VARIANTS, 'gpu': _gpu,
    'pod': _pod}
