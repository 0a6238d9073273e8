# SPDX-License-Identifier: Apache-2.0
"""Loops: a policy searches, learns from what it found, and searches again.

  python -m meta_cot.main --config=configs/loops.py:star_tiny \
      --workdir=runs/star

A round is a stage `searchN`, which answers training problems, and a stage
`sftN`, which learns from what was found. Stage `table` compares the policies of
all rounds and the controls (docs/loops.md): `plain`, which learns as many
answers of the first policy at once, and `taught`, which goes on with the
teacher's data; both are trained on as many tokens as all rounds together.

The first policy of solutions has seen few of the problems that it is asked
(1,000 of 10,000; all of them in Meta-STaR).

Variants, two rounds each, TS-LLM three; docs/results/loops.md has what they
reached:
  star_tiny          STaR: right samples; every round trains the first policy
                     anew.
  meta_star_tiny     Meta-STaR: the search itself is what is learned; the first
                     round searches best-first, the next one writes searches.
                     `plain` is STaR with as many tokens drawn and learned.
  ts_llm_tiny        TS-LLM: MCTS; every round trains the policy and the value
                     that guides the next one. Every policy is asked with every
                     value (Table 1 of arXiv 2501.04682).
  ts_llm_make24_tiny the same with 24 out of four numbers of 1..30.
  shortening_tiny    Searchformer: a policy of searches learns the shortest
                     right one of several that it wrote.
  mcts_distill_tiny  Steps in proportion to their visits in MCTS.
  dagger_tiny        The teacher goes on from states that the policy reached.
"""

from collections.abc import Callable, Mapping
import functools
import types
from typing import Any

import ml_collections

from configs import base
from configs import countdown
from configs import kinds
from configs import tasks
from configs.paper import puzzles

FIRST = 'sft/solution_only'  # the policy of round 0

_NUM_ASKED = 6_000  # training problems of a round
_NUM_SHORTENED = 2_000  # the same, where searches are written
_NUM_TOKENS = 400_000  # trained in a round
_TREES = dict(
    branching=4, num_simulations=8, step_length=8, temperature=1.5)
# Among steps that the task allows; what is none costs its tokens alone.
_LEGAL_TREES = {
    'branching': 8, 'num_simulations': 16, 'step_length': 8,
    'temperature': 1.0, 'tree.step_check': 'task'}
_NUM_SAMPLES_OF_TREE = 10  # have about the tokens of such a tree
_OF_24 = dict(branching=6, num_simulations=12, step_length=9)


def get_config(variant: str = 'star_tiny') -> ml_collections.ConfigDict:
  """Makes the experiment of one variant.

  Raises:
    ValueError: no such variant; lists them.
  """
  return base.choose(VARIANTS, variant)()


def first_policy() -> ml_collections.ConfigDict:
  """Makes three-number Countdown and a small policy that knows a little."""
  c = base.get_config()
  c.model.update(dict(num_layers=3, embed_dim=64, head_dim=16, mlp_dim=172))
  c.task = tasks.countdown()
  c.task.max_value = 60
  c.problems = kinds.problems()
  c.traces = kinds.traces(num_processes=1)  # quicker than starting workers
  c.tokenizer = kinds.tokenizer()
  c.tokenizer.vocabulary.number_tokens = 60  # 0..60 are one token each
  c.sft = kinds.train(
      arms=('solution_only',), num_tokens=400_000, eval_every_steps=100,
      save_every_steps=400)
  c.sft.data.sequence_length = 64
  c.stages = ('problems', 'traces', 'tokenizer', 'sft')
  return c


def _taught_little() -> ml_collections.ConfigDict:
  """Makes a first policy that has seen few of the problems it is asked."""
  c = first_policy()
  c.sft.data.num_records = 1_000
  return c


def _policy_of_24() -> ml_collections.ConfigDict:
  """Makes 24 out of four numbers and a policy; values learn quickly there."""
  c = puzzles.policy(num_numbers=4, num_tokens=600_000)
  c.sft.update(dict(arms=('solution_only',), eval_every_steps=200))
  c.sft.data.num_records = 2_000
  return c


def _star(c: ml_collections.ConfigDict, num_rounds: int) -> None:
  policy = FIRST
  for i in range(1, num_rounds + 1):
    search(c, f'search{i}', policy, solver='samples')
    policy = learn(c, i, start=FIRST)
  _compare(c, num_rounds, num_samples=num_rounds * 4)


def _policy_of_countdown(
    arm: str, num_tokens: int) -> ml_collections.ConfigDict:
  """Makes the policy of `countdown.py:tiny`; a smaller one hardly searches."""
  c = countdown.get_config('tiny')
  c.sft.update(dict(arms=(arm,), num_tokens=num_tokens))
  c.stages = c.stages[:-1]
  return c


def _meta_star(c: ml_collections.ConfigDict, num_rounds: int) -> None:
  search(c, 'search1', FIRST, solver='best_first')
  c.search1.search.update(dict(_TREES, num_expansions=8, step_length=12))
  policy = learn(c, 1, start=FIRST, arm='verified_traces')
  for i in range(2, num_rounds + 1):
    _write_searches(c, i, policy, kept='first_text')
    policy = learn(c, i, start=policy, arm='verified_traces')
  _controls(c, num_rounds, num_samples=16, taught='traces')
  num_tokens = (1_200_000,) + (600_000,) * (num_rounds - 1)
  for name in c.stages[4:]:
    if c[name].kind == 'train':  # searches are new to the first policy
      c[name].num_tokens = sum(num_tokens)
      c[name].optimizer.learning_rate = c.sft.optimizer.learning_rate / 1.5
  for i, number in enumerate(num_tokens, start=1):
    c[f'sft{i}'].num_tokens = number
  _table(c, num_rounds, reference=FIRST, solvers=('greedy', 'samples'))
  c.table.teacher = 'compact'
  c.table.samples.update(dict(num_samples=8, max_new_tokens=256))
  c.figure = kinds.figure(
      figure='unsolved', stages=('table',),
      title='Solved where no symbolic strategy does')
  c.stages += ('figure',)


def _shortening(c: ml_collections.ConfigDict, num_rounds: int) -> None:
  policy = 'sft/traces'
  for i in range(1, num_rounds + 1):
    _write_searches(
        c, i, policy, kept='shortest_text', num_train=_NUM_SHORTENED)
    policy = learn(c, i, start=policy, arm='verified_traces')
  search(c, 'plain_search', 'sft/traces', solver='samples', kept='first_text',
         num_train=_NUM_SHORTENED)
  c.plain_search.samples.update(dict(num_samples=8, max_new_tokens=256))
  _learn(c, 'plain', 'plain_search', 'sft/traces', 'verified_traces',
         num_rounds * _NUM_TOKENS)
  _learn(c, 'taught', 'traces', 'sft/traces', 'traces',
         num_rounds * _NUM_TOKENS)
  _table(c, num_rounds, reference='sft/traces', solvers=('greedy',))
  c.table.samples.max_new_tokens = 256


def _mcts_distill(c: ml_collections.ConfigDict, num_rounds: int) -> None:
  policy = FIRST
  for i in range(1, num_rounds + 1):
    search(c, f'search{i}', policy, solver='mcts', search=_LEGAL_TREES)
    c[f'search{i}'].search.tree.early_stop = 'never'  # visits go on
    policy = learn(c, i, start=policy, arm='visited')
  _compare(c, num_rounds, num_samples=num_rounds * _NUM_SAMPLES_OF_TREE)


def _dagger(c: ml_collections.ConfigDict, num_rounds: int) -> None:
  policy = FIRST
  for i in range(1, num_rounds + 1):
    search(c, f'search{i}', policy, solver='samples')
    policy = learn(c, i, start=policy, arm='relabelled')
  _compare(c, num_rounds, num_samples=num_rounds * 4)


def _ts_llm(
    c: ml_collections.ConfigDict, num_rounds: int,
    trees: Mapping[str, Any] = types.MappingProxyType({}),
    num_asked: int = _NUM_ASKED,
    num_samples: int = _NUM_SAMPLES_OF_TREE,
) -> None:
  policy, values = FIRST, [None]
  for i in range(1, num_rounds + 1):
    search(
        c, f'search{i}', policy, solver='mcts', search=_LEGAL_TREES | trees,
        num_train=num_asked)
    _guide(c[f'search{i}'], values[-1])
    values.append(_value(c, i, policy, num_asked))
    policy = learn(c, i, start=policy)
  _controls(c, num_rounds, num_rounds * num_samples)
  c.plain_search.num_train = num_asked
  _judge(c, values[1:])
  rounds = (f'sft{i}' for i in range(1, num_rounds + 1))
  policies, asked = ('sft', *rounds), []
  for i, value in enumerate(values):
    asked.append(f'asked{i}')
    _ask(c, asked[-1], policies if i else (*policies, 'plain', 'taught'), FIRST)
    c[asked[-1]].search.update(trees)
    if i:
      c[asked[-1]].solvers = ('mcts',)  # greedy answers need no value
    _guide(c[asked[-1]], value)
  _ask(c, 'allowed', c.asked0.policies, FIRST)
  c.allowed.solvers = ('mcts',)
  c.allowed.search.update_from_flattened_dict(_LEGAL_TREES | trees)
  c.table = kinds.figure(
      figure='table', stages=(*asked, 'allowed'),
      labels=(*(f'value {i}' for i in range(len(values))), 'allowed'),
      title='Every policy with every value; value 0 is the likelihood')
  c.stages += ('table',)


def _value(
    c: ml_collections.ConfigDict, i: int, policy: str, num_asked: int) -> str:
  """Adds the value of round i: how the answers of its policy ended."""
  search(
      c, f'answers{i}', policy, solver='samples', num_train=num_asked)
  c[f'label{i}'] = kinds.label(
      policy=policy, records=f'answers{i}', source='outcome')
  c.stages += (f'label{i}',)
  value = _learn(
      c, f'value{i}', f'label{i}', policy, 'solution_only', _NUM_TOKENS,
      objective='value')
  c[f'value{i}'].batch_size = 16
  c[f'value{i}'].data.value.update(dict(weight=2.0, balance=0.5))
  c[f'value{i}'].optimizer.learning_rate = c.sft.optimizer.learning_rate / 1.5
  return value


def _judge(c: ml_collections.ConfigDict, values: list[str]) -> None:
  """Adds how well values tell states that can still be solved from others."""
  c.truth = kinds.label(
      policy=FIRST, records='plain_search', source='oracle', num_train=1)
  c.quality = kinds.quality(judges=tuple(values), records='truth', policy=FIRST)
  c.stages += ('truth', 'quality')


def _guide(group: ml_collections.ConfigDict, value: str | None) -> None:
  """Lets a value guide the searches of a stage; None: the likelihood."""
  if value is not None:
    group.search.value, group.search.valuing.model = 'model', value


def search(
    c: ml_collections.ConfigDict, name: str, policy: str, solver: str,
    search: dict[str, Any] | None = None, **changes: Any,
) -> None:
  """Adds a stage in which a policy answers training problems."""
  c[name] = kinds.search(
      policy=policy, solver=solver, num_train=_NUM_ASKED, num_validation=100)
  c[name].update(changes)
  c[name].search.update_from_flattened_dict(search or {})
  c.stages += (name,)


def _write_searches(
    c: ml_collections.ConfigDict, i: int, policy: str, **changes: Any) -> None:
  """Adds the searches of round i that a policy writes itself."""
  search(c, f'search{i}', policy, solver='samples', **changes)
  c[f'search{i}'].samples.update(dict(num_samples=4, max_new_tokens=256))


def learn(
    c: ml_collections.ConfigDict, i: int, start: str,
    arm: str = 'solution_only',
) -> str:
  """Adds the training of round i; returns the policy that it leaves."""
  return _learn(c, f'sft{i}', f'search{i}', start, arm, _NUM_TOKENS)


def _learn(
    c: ml_collections.ConfigDict, name: str, records: str, start: str,
    arm: str, num_tokens: int, **changes: Any,
) -> str:
  c[name] = kinds.train(
      records=records, start=start, arms=(arm,), num_tokens=num_tokens,
      batch_size=c.sft.batch_size, eval_every_steps=100, save_every_steps=400,
      **changes)
  c[name].data.sequence_length = c.sft.data.sequence_length
  c[name].optimizer.learning_rate = c.sft.optimizer.learning_rate / 3
  c.stages += (name,)
  return f'{name}/{arm}'


def _controls(
    c: ml_collections.ConfigDict, num_rounds: int, num_samples: int,
    taught: str = 'solution_only',
) -> None:
  """Adds policies with as many tokens, without rounds: `plain`, `taught`."""
  search(c, 'plain_search', FIRST, solver='samples')
  c.plain_search.samples.num_samples = num_samples
  for name, records, arm in (
      ('plain', 'plain_search', 'solution_only'),
      ('taught', 'traces', taught)):
    _learn(c, name, records, FIRST, arm, num_rounds * _NUM_TOKENS)


def _compare(
    c: ml_collections.ConfigDict, num_rounds: int, num_samples: int) -> None:
  """Adds the controls, and the table over all policies."""
  _controls(c, num_rounds, num_samples)
  _table(c, num_rounds, reference=FIRST, solvers=('greedy', 'mcts'))


def _table(
    c: ml_collections.ConfigDict, num_rounds: int, reference: str,
    solvers: tuple[str, ...],
) -> None:
  rounds = (f'sft{i}' for i in range(1, num_rounds + 1))
  _ask(c, 'table', ('sft', *rounds, 'plain', 'taught'), reference)
  c.table.solvers = solvers


def _ask(
    c: ml_collections.ConfigDict, name: str, policies: tuple[str, ...],
    reference: str,
) -> None:
  """Adds a report of greedy answers and searches."""
  c[name] = kinds.evaluate(
      policies=policies, reference=reference, solvers=('greedy', 'mcts'),
      num_problems=300, num_curve_problems=0)
  c[name].search.update(_TREES)
  c[name].search.outcome = 'value'  # no verifier, as where a problem is new
  c.stages += (name,)


def _loop(
    change: Callable[..., None], num_rounds: int = 2,
    make: Callable[[], ml_collections.ConfigDict] = first_policy, **more: Any,
) -> Callable[[], ml_collections.ConfigDict]:
  """Returns what makes a first policy and its rounds."""
  def get() -> ml_collections.ConfigDict:
    c = make()
    change(c, num_rounds=num_rounds, **more)
    return c
  return get


VARIANTS = {
    'star_tiny': _loop(_star, make=_taught_little),
    'meta_star_tiny': _loop(_meta_star, make=functools.partial(
        _policy_of_countdown, 'solution_only', 1_000_000)),
    'ts_llm_tiny': _loop(_ts_llm, num_rounds=3, make=_taught_little),
    'ts_llm_make24_tiny': _loop(
        _ts_llm, num_rounds=3, make=_policy_of_24, trees=_OF_24,
        num_asked=4_000, num_samples=16),
    'shortening_tiny': _loop(_shortening, make=functools.partial(
        _policy_of_countdown, 'traces', 2_100_000)),
    'mcts_distill_tiny': _loop(_mcts_distill, make=_taught_little),
    'dagger_tiny': _loop(_dagger, make=_taught_little)}
