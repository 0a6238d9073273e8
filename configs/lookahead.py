# SPDX-License-Identifier: Apache-2.0
"""Where does a look-ahead pay? Searches with values beside best of N.

  python -m meta_cot.main --config=configs/lookahead.py:countdown \
      --workdir=runs/lookahead

A policy of solutions answers training problems; its answers are labelled with
how they ended; a value learns from them (`valueN` of the policy of seed N, the
policy being trained beside it); `quality` says how good the values are. Every
stage `budgetK_N` is a beam of one size beside best of N by the same value, in
the form that validation problems say is best; `oracle_N` is one that the task
itself guides, beside best of N by the exact verifier; `spent` and `model_of_it`
draw them (docs/results/lookahead.md).

Variants:
  countdown       four numbers, three seeds: an hour and a half on a CPU core.
  countdown_tiny  one seed, little training: a quarter of an hour. Shows nothing
                  but that it runs.
  sudoku          4 x 4, 3 to 12 empty cells: the difference by depth, judged in
                  four ways; one seed, an hour on a CPU core.
  make24          the Game of 24 with numbers of 1..30 instead of 1..13, so that
                  there are enough puzzles; beams as for `countdown`. As long.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections

from configs import base
from configs import kinds
from configs import sudoku4
from configs import tasks

_ARM = 'solution_only_permuted'

# Chosen on validation problems, among some of each size (docs/results).
_COUNTDOWN_BEAMS = (
    dict(branching=(6, 3, 1), beam_width=4),
    dict(branching=(12, 3, 1), beam_width=6),
    dict(branching=(12, 4, 1), beam_width=8),
    dict(branching=(24, 3, 1), beam_width=12),
)


_SUDOKU_ARM = 'solution_only'
_SUDOKU_BEAMS = (
    dict(branching=2, beam_width=1), dict(branching=3, beam_width=2),
    dict(branching=4, beam_width=4))
_SUDOKU_SAMPLES = (4, 12, 24)  # no fewer tokens than a beam's


_COUNTDOWN_ORACLE = dict(branching=(24, 12, 2), beam_width=3)


def get_config(variant: str = 'countdown') -> ml_collections.ConfigDict:
  """Makes the experiment of one variant.

  Raises:
    ValueError: no such variant; lists them.
  """
  change = base.choose(VARIANTS, variant)
  c = base.get_config()
  change(c)
  return c


def _countdown(c: ml_collections.ConfigDict) -> None:
  _puzzles(c, num_train=40_000)
  _values(
      c, seeds=(0, 1, 2), num_tokens=(3_000_000, 6_000_000),
      num_answered=40_000, beams=_COUNTDOWN_BEAMS, num_problems=1_000)


def _countdown_tiny(c: ml_collections.ConfigDict) -> None:
  _puzzles(c, num_train=10_000)
  _values(
      c, seeds=(0,), num_tokens=(1_000_000, 1_000_000), num_answered=4_000,
      beams=_COUNTDOWN_BEAMS[:1], num_problems=200)


def _sudoku(c: ml_collections.ConfigDict) -> None:
  """A policy that stays, values of its own folder, from the task's labels."""
  tiny = sudoku4.get_config('tiny')
  c.update(dict(style=tiny.style, task=tiny.task, tokenizer=tiny.tokenizer))
  c.task.update(dict(min_empty=3, num_validation=300, num_test=1_000))
  c.problems, c.traces = kinds.problems(), tiny.traces
  c.sft = _train(arms=(_SUDOKU_ARM,), num_tokens=1_100_000)
  c.sft.optimizer.learning_rate = tiny.sft.optimizer.learning_rate
  policy = f'sft/{_SUDOKU_ARM}'
  c.answers = kinds.search(
      policy=policy, num_train=40_000, num_validation=300)
  c.answers.samples.update(dict(num_samples=2, max_new_tokens=56))
  c.labels = kinds.label(policy=policy, records='answers', source='oracle')
  c.stages = ('problems', 'traces', 'tokenizer', 'sft', 'answers', 'labels')
  judges = {'likelihood': None, 'oracle': None}
  for size, num_records, num_tokens in (
      ('few', 4_000, 1_000_000), ('many', None, 6_000_000)):
    c[size] = v = _value(policy, 'labels', _SUDOKU_ARM, num_tokens)
    v.data.num_records = num_records
    judges[f'value of {size}'] = f'{size}/{_SUDOKU_ARM}'
    c.stages += (size,)
  c.quality = kinds.quality(
      judges=tuple(filter(None, judges.values())), records='labels',
      policy=policy, max_tokens=56)
  c.stages += ('quality',)
  for i, (beam, num_samples) in enumerate(
      zip(_SUDOKU_BEAMS, _SUDOKU_SAMPLES, strict=True)):
    asked = []
    for label, judge in judges.items():
      asked.append(f'beam{i}_by_{label.replace(" ", "_")}')
      c[asked[-1]] = e = _judged(policy, label, judge, beam)
      e.samples.num_samples = num_samples
    c[f'depth{i}'] = kinds.figure(
        figure='depth', stages=tuple(asked), labels=tuple(judges),
        title='A search and best of N, judged by the same, by depth')
    c.stages += (*asked, f'depth{i}')


def _judged(
    policy: str, label: str, judge: str | None, beam: Mapping[str, Any]
) -> ml_collections.ConfigDict:
  """Makes a stage of a beam beside samples, guided by `judge` or `label`."""
  e = kinds.evaluate(
      policies=(policy,), reference=policy, solvers=('samples', 'beam'),
      num_problems=1_000, num_curve_problems=0, num_choice_problems=300)
  e.samples.update(dict(
      max_new_tokens=56, judges=(judge,) if judge else ()))
  e.search.update(dict(
      value='mixture' if judge else label,
      outcome='verifier' if label == 'oracle' else 'value',
      siblings='without_replacement', step_length=5, num_slots=50, **beam))
  e.search.valuing.update(dict(
      model=judge, sources=('model', 'likelihood'), weights=(1.0, 5.0)))
  return e


def _make24(c: ml_collections.ConfigDict) -> None:
  _puzzles(c, num_train=40_000)
  c.task.update(dict(
      max_number=30, min_target=24, max_target=24, heldout_target_fraction=0.0))
  _values(
      c, seeds=(0, 1, 2), num_tokens=(1_500_000, 6_000_000),
      num_answered=40_000, beams=_COUNTDOWN_BEAMS, num_problems=1_000)


def _puzzles(c: ml_collections.ConfigDict, num_train: int) -> None:
  """Four numbers; a number is one token."""
  c.model.vocab_size = 160
  c.task = tasks.countdown()
  c.task.update(dict(
      num_numbers=4, max_target=99, max_value=99, enumerate_all=False,
      num_train=num_train))
  c.problems = kinds.problems()
  c.traces = kinds.traces(num_processes=1)
  c.tokenizer = kinds.tokenizer()
  c.tokenizer.vocabulary.update(dict(vocab_size=160, number_tokens=99))


def _values(
    c: ml_collections.ConfigDict, seeds: Sequence[int],
    num_tokens: tuple[int, int], num_answered: int,
    beams: Sequence[Mapping[str, Any]], num_problems: int,
) -> None:
  """Adds policies, values and the beams that they guide, for every seed.

  Args:
    c: with a task, its traces and a tokenizer.
    seeds: of training.
    num_tokens: of the policy, and of the value behind it.
    num_answered: training problems that the value learns from.
    beams: settings of each size.
    num_problems: of the test split.
  """
  c.sft = _train(arms=(_ARM,), seeds=seeds, num_tokens=num_tokens[0])
  c.stages = ('problems', 'traces', 'tokenizer', 'sft')
  judges = []
  for seed in seeds:
    policy = f'sft/{_ARM}/seed{seed}'
    c[f'answers{seed}'] = a = kinds.search(
        policy=policy, num_train=num_answered, num_validation=300)
    a.samples.update(dict(num_samples=4, max_new_tokens=40))
    c[f'labels{seed}'] = kinds.label(
        policy=policy, records=f'answers{seed}', source='outcome')
    c[f'value{seed}'] = _value(policy, f'labels{seed}', _ARM, num_tokens[1])
    c.stages += (f'answers{seed}', f'labels{seed}', f'value{seed}')
    judges.append(f'value{seed}/{_ARM}')
  # Of the answers of the first seed: what its values are compared with.
  c.truth = kinds.label(
      policy=f'sft/{_ARM}/seed{seeds[0]}', records=f'answers{seeds[0]}',
      num_train=64, num_states=16)
  c.quality = kinds.quality(
      judges=(judges[0],), records='truth',
      policy=f'sft/{_ARM}/seed{seeds[0]}')
  c.stages += ('truth', 'quality')
  budgets = []
  for i, beam in enumerate(beams):
    for seed, judge in zip(seeds, judges, strict=True):
      budgets.append(f'budget{i}_{seed}')
      c[budgets[-1]] = _beside(judge, beam, num_problems)
  oracles = []
  for seed in seeds:
    oracles.append(f'oracle_{seed}')
    c[oracles[-1]] = _by_oracle(f'sft/{_ARM}/seed{seed}', num_problems)
  c.spent = kinds.figure(
      figure='values', stages=(*budgets, *oracles), labels=(
          *('learned value',) * len(budgets), *('oracle',) * len(oracles)),
      title='A search and best of N, judged by the same')
  shown = ('quality', *budgets)
  c.model_of_it = kinds.figure(
      figure='lookahead', stages=shown, labels=('learned value',) * len(shown),
      title='What a look-ahead gains, and what the simplest model says')
  c.stages += (*budgets, *oracles, 'spent', 'model_of_it')


def _train(**changes: Any) -> ml_collections.ConfigDict:
  t = kinds.train(save_every_steps=1_000, batch_size=8)
  t.data.sequence_length = 128
  t.update(changes)
  return t


def _value(
    policy: str, labels: str, arm: str, num_tokens: int
) -> ml_collections.ConfigDict:
  """Makes a stage that trains a value and the policy beside it."""
  v = _train(objective='value', start=policy, records=labels, arms=(arm,),
             num_tokens=num_tokens, batch_size=16)
  v.data.value.update(dict(weight=2.0, policy_weight=1.0, balance=0.5))
  v.optimizer.learning_rate = 2e-3
  return v


def _beside(
    judge: str, beam: Mapping[str, Any], num_problems: int
) -> ml_collections.ConfigDict:
  """Makes a stage of a beam beside samples; one model writes and judges."""
  e = kinds.evaluate(
      policies=(judge,), reference=judge, solvers=('samples', 'beam'),
      num_problems=num_problems, num_curve_problems=0, num_choice_problems=300)
  e.samples.update(dict(num_samples=32, max_new_tokens=40, judges=(judge,)))
  # Of all but 19 tokens: as the probability of the path to the power 1/4.
  e.search.update(dict(
      value='mixture', outcome='value', siblings='without_replacement',
      step_length=9, num_slots=50, **beam))
  e.search.valuing.weights = (1.0, 5.0)
  return e


def _by_oracle(policy: str, num_problems: int) -> ml_collections.ConfigDict:
  """Makes a stage of a beam with the exact oracle, beside samples."""
  e = kinds.evaluate(
      policies=(policy,), reference=policy, solvers=('samples', 'beam'),
      num_problems=num_problems, num_curve_problems=0, num_choice_problems=100)
  e.samples.update(dict(num_samples=32, max_new_tokens=40))
  e.search.update(dict(
      value='oracle', siblings='without_replacement', step_length=9,
      num_slots=50, **_COUNTDOWN_ORACLE))
  e.search.tree.update(dict(step_check='task', merging='states'))
  return e


VARIANTS = {
    'countdown': _countdown, 'countdown_tiny': _countdown_tiny,
    'make24': _make24, 'sudoku': _sudoku}
