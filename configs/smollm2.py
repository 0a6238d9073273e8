# SPDX-License-Identifier: Apache-2.0
"""A pretrained model learns to solve word problems, to judge, and to search.

  python -m meta_cot.convert import --source=SmolLM2-135M-Instruct \
      --prompt=chat --output=models/smollm2
  python -m meta_cot.main --config=configs/smollm2.py:tiny \
      --workdir=runs/smollm2

`models/smollm2` of the current folder is the policy that docs/models.md
imports. Stages: what it can do as it is (`before`); low-rank adapters tuned on
solutions (`tuned`) and what that gives (`after`); a value head on the trunk
that stays, of its own answers (`value`), best of N and best-first search with
it (`searched`); second attempts behind its own first ones, right or wrong
(`revised`); reinforcement learning over two attempts, by adapters again (`rl`,
`episodes`).

Variants:
  search  no training: best-first search over the lines of the model as it is,
          on eight problems; some minutes.
  tiny    SmolLM2-135M on problems of one and two steps: hours on two CPU
          cores.
  laptop  the same, with more of everything: a night, by estimate; not run.
  control no training: the model as it is on 60 problems of GSM8K
          (`data/gsm8k/train.jsonl` and `test.jsonl`), which are beyond it.
  gpu     Qwen 2.5 0.5B (`models/qwen25`) on GSM8K, steps of up to 64 tokens.
"""

import os

import ml_collections

from configs import base
from configs import kinds
from configs import tasks

_ARM = 'solution_only'
_TUNED, _VALUE = f'tuned/{_ARM}', f'value/{_ARM}'
_REVISIONS = 'revisions_kept'


def get_config(variant: str = 'tiny') -> ml_collections.ConfigDict:
  """Makes the experiment of one variant.

  Raises:
    ValueError: no such variant; lists them.
  """
  return base.choose(VARIANTS, variant)()


def _experiment(
    model: str, length: int, step: int) -> ml_collections.ConfigDict:
  """Makes the stages, of answers and steps of so many tokens at most."""
  model = os.path.abspath(model)
  c = base.get_config()
  c.style = 'free_text'
  c.task = tasks.word_problems()
  c.problems = kinds.problems()
  c.traces = kinds.traces(strategies='solution', num_processes=1)
  c.before = _asked(model, length)
  c.tuned = _trained('sft', 'traces', model)
  c.tuned.optimizer.trained.part = 'lora'
  c.after = _asked(_TUNED, length)
  c.answers = kinds.search(policy=_TUNED)
  c.answers.samples.max_new_tokens = length
  c.labels = kinds.label(policy=_TUNED, records='answers', source='outcome')
  c.value = _trained('value', 'labels', _TUNED)
  c.value.optimizer.trained.part = 'value_head'
  c.quality = kinds.quality(
      judges=(_VALUE,), records='labels', policy=_TUNED, max_tokens=length,
      batch_size=16)
  c.searched = _asked(_VALUE, length)
  c.searched.solvers = ('samples', 'best_first')
  c.searched.samples.judges = (_VALUE,)
  c.searched.search.update(dict(
      value='head', step_length=step, num_slots=16, num_expansions=8,
      temperature=0.8))
  c.revised = _trained('sft', 'answers', _TUNED, _REVISIONS)
  c.revised.data.update(dict(max_attempts=2, trained_attempts='final'))
  c.revised.optimizer.trained.part = 'lora'
  c.rl, c.episodes = _rl(f'revised/{_REVISIONS}', length)
  c.stages = (
      'problems', 'traces', 'before', 'tuned', 'after', 'answers', 'labels',
      'value', 'quality', 'searched', 'revised', 'rl', 'episodes')
  return c


def _asked(policy: str, length: int) -> ml_collections.ConfigDict:
  e = kinds.evaluate(
      policies=(policy,), splits=('test',), num_curve_problems=0)
  e.samples.update(dict(
      batch_size=64, max_new_tokens=length, temperature=0.8))
  return e


def _trained(objective: str, records: str, start: str, arm: str = _ARM):
  t = kinds.train(
      objective=objective, records=records, start=start, arms=(arm,),
      num_tokens=None, batch_size=8, log_every_steps=5, eval_every_steps=50,
      num_eval_batches=2, save_every_steps=50)
  t.data.sequence_length = 256
  t.data.value.balance = 0.5
  t.optimizer.update(dict(
      learning_rate=1e-3, warmup_steps=5, weight_decay=0.0))
  return t


def _rl(start: str, length: int):
  """Makes the stage, and one that reports it."""
  r = kinds.rl(start=start, objectives=('erl2',))
  r.optimizer.trained.part = 'lora'
  r.episodes.update(dict(
      num_episodes=2, episode_length=length, temperature=0.8))
  r.optimizer.learning_rate = 3e-4
  e = kinds.evaluate(
      policies=(start, 'rl'), start=start, solvers=('samples', 'revisions'),
      splits=('test',), num_curve_problems=0)
  for key in ('num_episodes', 'episode_length', 'temperature'):
    e.episodes[key] = r.episodes.get_ref(key)
  e.samples.update(dict(  # as many tokens as the episodes have
      batch_size=64, max_new_tokens=length, num_samples=2, temperature=0.8))
  return r, e


def _tiny() -> ml_collections.ConfigDict:
  c = _experiment('models/smollm2', length=48, step=24)
  c.task.update(dict(max_steps=2, num_train=2_000, num_test=300))
  c.before.samples.num_samples = c.after.samples.num_samples = 4
  c.tuned.num_examples, c.revised.num_examples = 1_000, 400
  c.answers.update(dict(num_train=400, num_validation=40))
  c.answers.samples.batch_size = 64
  c.value.num_examples = 1_600
  c.value.optimizer.learning_rate = 3e-3
  c.value.data.value.policy_weight = 0.0
  c.searched.num_problems = 60
  c.searched.samples.num_samples = 8
  c.rl.update(dict(
      num_iterations=6, eval_every=6, save_every=6, num_eval_problems=32,
      num_eval_samples=1))
  c.rl.questions.update(dict(num_questions=16, num_samples=4, num_slots=64))
  c.rl.updates.num_accumulation = 16  # logits of 49k tokens take room
  c.episodes.num_problems = 60
  c.episodes.episodes.update(dict(
      num_questions=16, num_samples=1, num_slots=16))
  return c


def _search() -> ml_collections.ConfigDict:
  c = _tiny()
  c.searched.update(dict(
      policies=(os.path.abspath('models/smollm2'),), num_problems=8,
      solvers=('greedy', 'best_first')))
  c.searched.samples.judges = ()
  c.searched.search.value = 'likelihood'
  c.stages = ('problems', 'searched')
  return c


def _laptop() -> ml_collections.ConfigDict:
  c = _tiny()
  c.task.update(dict(max_steps=3, num_train=10_000))
  c.before.samples.num_samples = c.after.samples.num_samples = 8
  c.tuned.num_examples, c.revised.num_examples = 8_000, 3_000
  c.answers.update(dict(num_train=3_000, num_validation=200))
  c.value.num_examples = 20_000
  c.searched.num_problems = 300
  c.rl.update(dict(
      num_iterations=60, eval_every=20, save_every=20, num_eval_problems=100))
  c.episodes.num_problems = 300
  return c


def _control() -> ml_collections.ConfigDict:
  c = _tiny()
  c.task = _gsm8k()
  c.before.num_problems = 60
  c.before.samples.max_new_tokens = 256
  c.stages = ('problems', 'before')
  return c


def _gsm8k() -> ml_collections.ConfigDict:
  task = tasks.gsm8k()
  for split in ('train', 'test'):
    task[split] = (os.path.abspath(f'data/gsm8k/{split}.jsonl'),)
  return task


def _gpu() -> ml_collections.ConfigDict:
  c = _experiment('models/qwen25', length=256, step=64)
  c.task = _gsm8k()
  for name in ('before', 'after', 'searched'):
    c[name].samples.update(dict(batch_size=512, num_samples=8))
  c.tuned.update(dict(num_examples=14_000, batch_size=32))
  c.revised.update(dict(num_examples=4_000, batch_size=32))
  c.value.update(dict(num_examples=40_000, batch_size=32))
  for name in ('tuned', 'value', 'revised'):
    c[name].data.sequence_length = 1024
  c.answers.update(dict(num_train=4_000, num_validation=300))
  c.answers.samples.batch_size = 512
  c.quality.update(dict(max_tokens=256, batch_size=128))
  c.searched.search.num_slots = 64
  c.rl.questions.update(dict(num_questions=64, num_samples=8, num_slots=512))
  return c


VARIANTS = {
    'search': _search, 'tiny': _tiny, 'laptop': _laptop, 'control': _control,
    'gpu': _gpu}
