# SPDX-License-Identifier: Apache-2.0
"""Attempts that a search writes before the policy's own."""

import dataclasses
import functools

from etils import epath
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import kinds
from meta_cot import sharding
from meta_cot.search import batching
from meta_cot.settings import config as config_lib
from meta_cot.solvers import base as solvers_base
from meta_cot.solvers import searching
from meta_cot.stages import evaluate
from meta_cot.stages import solving
from meta_cot.training import compilation
from meta_cot.training import policy as policy_lib
from tests import small_rl

_SEARCH = dict(
    outcome='value', max_depth=3, step_length=4, branching=3, beam_width=3,
    num_expansions=8, num_simulations=8)
_IDS = (3, 5, 7, 1)  # of the first four problems
_RNG = functools.partial(jax.random.key, 8)


def _settings(exploration='mcts', **changes):
  return dict(exploration=exploration, search=_SEARCH) | changes


@functools.cache
def _run(**changes) -> small_rl.Run:
  """Before its first iteration."""
  return small_rl.Run(**_settings(**changes))


@functools.cache
def _iterated() -> small_rl.Run:
  """After two iterations, the programs compiled in each known."""
  run = small_rl.Run(**_settings(discounts=(0.99,)))
  memory = run.memory()
  run.compiled = [compilation.num_programs()]
  run.after, run.rows = run.state(), []
  for number in range(2):
    run.after, (row,) = run.iterate(
        state=run.after, memory=memory, first=number)
    run.rows.append(row)
    run.compiled.append(compilation.num_programs())
  return run


def _explored(setup, problems, ids):
  """(asked, the same with attempts behind) of a search with `_RNG`."""
  programs = setup.programs.of('erl2')
  with sharding.use_mesh(programs.mesh):
    asked = setup.player(programs, 1).ask(problems, ids)
    return jax.device_get((asked, programs.explore()(
        setup.start, asked, _RNG())))


def _trees(run, asked) -> list[searching.Found]:
  """What the stage `search` finds with the same key, in the order of `_IDS`."""
  made = searching.make_slots(
      run.programs.task, run.model, run.settings.search,
      run.programs.search.vocabulary, run.devices, run.programs.search.strategy)
  queue = [
      batching.Problem(number, dict(prompt=prompt, length=length, problem=None))
      for number, prompt, length in zip(_IDS, asked.prompts, asked.lengths)]
  with run.mesh:
    found = made.run_all(
        searching.slice_layers(run.model, run.setup.start),
        _RNG(), queue)
    by_id = {f.problem.id: f.result for f in found}
  return [by_id[number] for number in _IDS]


def _walk(found: searching.Found, node: int) -> list[int]:
  """The tokens from the root down to a node."""
  if node == 0:
    return []
  before = _walk(found, int(found.output.tree.parents[node]))
  return before + found.tokens[node, :found.lengths[node]].tolist()


@pytest.mark.parametrize('exploration', [
    'mcts', pytest.param('particles', marks=pytest.mark.slow)])
def test_attempts_are_the_first_finished_steps_of_the_tree(exploration):
  run = _run(exploration=exploration)
  asked, explored = _explored(run.setup, small_rl.PROBLEMS[:4], _IDS)
  reset_ids = small_rl.tokenizer().encode(small_rl.RESET)
  numbers = []
  for q, found in enumerate(_trees(run, asked)):
    tree = found.output.tree
    ends = np.flatnonzero(tree.is_valid & tree.is_terminal)[:2].tolist()
    text = asked.prompts[q, :asked.lengths[q]].tolist()
    for node in ends:
      attempt = _walk(found, node)
      assert attempt.index(small_rl.tokenizer().eos_ids[0]) == len(attempt) - 1
      text += [*attempt, *reset_ids]
    assert explored.prompts[q, :explored.lengths[q]].tolist() == text
    assert not explored.prompts[q, len(text):].any()  # padding
    assert explored.num_explored[q] == tree.num_tokens > 0
    numbers.append(len(ends))
  assert explored.prompts.shape[1] == (
      run.programs.question_width + 2 * (3 * 4 + 1)) == run.programs.width
  np.testing.assert_array_equal(explored.ids, _IDS)
  assert {0, 1} <= set(numbers) <= {0, 1, 2}


def test_a_question_is_explored_alike_alone_and_on_many_devices():
  run = _run()
  _, whole = _explored(run.setup, small_rl.PROBLEMS[:4], _IDS)
  many = small_rl.setup(run.experiment, (8, 1, 1))
  both = small_rl.setup(run.experiment, (2, 1, 2))
  for setup, chosen in (
      (run.setup, (3,)), (run.setup, (2, 0)), (many, (0, 1, 2, 3)),
      (both, (1, 3, 0))):
    _, some = _explored(
        setup, [small_rl.PROBLEMS[q] for q in chosen],
        [_IDS[q] for q in chosen])
    for name in ('prompts', 'lengths', 'num_explored'):
      np.testing.assert_array_equal(
          getattr(some, name)[:len(chosen)],
          getattr(whole, name)[list(chosen)], err_msg=f'{name} of {chosen}')


def test_attempts_are_read_and_not_trained():
  run = _iterated()
  for call, batch in zip(run.calls, run.batches, strict=True):
    _, _, prompts, lengths, rollouts, *_ = jax.device_get(call)
    rows = jax.device_get(batch.rows)
    asked = run.learner.player.ask(small_rl.PROBLEMS[:4], _IDS)
    assert prompts.shape[1] == asked.prompts.shape[1] + 2 * (3 * 4 + 1)
    assert (rows.is_sampled == batch.is_trained).all()
    for n in range(16):
      start, number = int(lengths[n // 4]) - 1, int(rollouts.lengths[n])
      np.testing.assert_array_equal(
          rows.tokens[n, :start + 1], prompts[n // 4, :start + 1])
      np.testing.assert_array_equal(
          np.flatnonzero(rows.is_sampled[n]), start + np.arange(number))
      assert 0 < number <= run.settings.episodes.episode_length
    assert rollouts.starts.shape == (16, 1)


def test_an_iteration_moves_the_policy_and_the_next_compiles_nothing():
  run = _iterated()
  for row in run.rows:
    assert all(np.isfinite(v) for v in row.values()), row
    assert row['grad_norm'] > 1e-4 and row['gap_max'] < 1e-4
    assert not any(name.startswith('episode_2') for name in row)
  moved = jax.tree.map(
      lambda a, b: float(jnp.abs(a - b).max()), run.after.params,
      run.setup.start)
  assert max(jax.tree.leaves(moved)) > 1e-5
  assert run.compiled[0] < run.compiled[1] == run.compiled[2]


def test_every_iteration_searches_anew_with_the_policy_of_then():
  run = _iterated()
  rng, config = run.learner.rng, run.settings
  memory = run.memory()
  for number, call in enumerate(run.calls):
    asked = run.learner.player.ask(*zip(*(
        (small_rl.PROBLEMS[q], q)
        for q in memory.questions.take(config.questions.num_questions))))
    with run.mesh:
      again = run.learner.explore(
          call[0], asked, jax.random.fold_in(
              jax.random.fold_in(rng, number), 3))
    np.testing.assert_array_equal(again.prompts, call[2])
    assert (again.lengths > asked.lengths).any()
    verdicts = jax.device_get(call[5])
    np.testing.assert_array_equal(
        verdicts.tokens_before[:, 0], np.repeat(again.num_explored, 4))
    assert verdicts.tokens_before.min() > 0
    explored = float(np.mean(again.num_explored))
    row = run.rows[number]
    assert row['explored_tokens'] == explored
    assert row['tokens'] == 16 * row['tokens_per_trajectory'] + 4 * explored


def test_what_a_search_costs_is_discounted():
  """Success behind a dear search is worth less."""
  run = _iterated()
  *before, verdicts, progress, beta, values = run.calls[0]
  advantages = lambda cost: run.prepare(*before, verdicts.replace(
      rewards=jnp.asarray(np.arange(16)[:, None] % 4 == 0, jnp.float32),
      tokens_before=jnp.full((16, 1), cost)), progress, beta,
      values)[0].advantages
  np.testing.assert_allclose(
      advantages(7), 0.99 ** 7 * advantages(0), rtol=1e-4, atol=1e-6)
  assert jnp.abs(advantages(0)).max() > 0.1


def test_held_out_problems_are_explored_too(tmp_path):
  run = _run()
  with run.mesh:
    judged = run.evaluate.play(run.setup.start)
    row = run.evaluate(run.setup.start)
  assert judged.rewards.shape == (8, 1)  # 4 problems, 2 samples
  spent = judged.num_tokens[:, 0] + judged.num_explored
  assert judged.num_explored.min() > 0
  np.testing.assert_array_equal(judged.num_explored[::2],
                                judged.num_explored[1::2])
  assert row['validation/tokens'] == spent.mean()
  policy_lib.write(
      epath.Path(tmp_path), run.model, small_rl.tokenizer(), 'compact', {})
  with run.mesh:  # the report plays the same
    procedure = solving.Asked(
        small_rl.context_of(run.experiment, (1, 1, 1)), _report(run),
        str(tmp_path)).procedure('revisions')
    outcomes = procedure.solver(
        solvers_base.Policy(
            'start', run.model, run.setup.start, small_rl.tokenizer(),
            'compact'), run.setup.validation, run.setup.evaluation_rng)
  np.testing.assert_array_equal(outcomes.num_tokens.reshape(-1), spent)


def _report(run) -> evaluate.Settings:
  """Settings of a stage that plays the trajectories of a run's evaluation."""
  group = kinds.evaluate(solvers=('revisions',), exploration='mcts')
  del group.kind
  group.search.update(_SEARCH)
  mine = dataclasses.asdict(run.settings.episodes)
  del mine['exploration']
  group.episodes.update(
      num_questions=4, num_samples=2, num_slots=8, **mine)
  return config_lib.parse(evaluate.Settings, group, 'config.episodes')


def test_single_explores_nothing():
  run = small_rl.Run('single', **_settings())
  assert run.learner.explore is None
  asked, *_ = run.learner._ask(
      run.setup.start, run.memory().questions.take(4), jax.random.key(0))
  assert asked.num_explored is None
  assert asked.prompts.shape == (4, run.programs.question_width)


def test_a_policy_depends_on_its_search():
  wider = dict(search=_SEARCH | dict(branching=2))
  faster = dict(search=_SEARCH | dict(num_slots=3))
  bound = lambda **changes: config_lib.bound(small_rl.settings(**changes))
  assert bound(**_settings()) != bound(**_settings() | wider)
  assert bound(**_settings()) == bound(**_settings() | faster)


@pytest.mark.parametrize('changes, message', [
    (dict(exploration='astar'),
     "config.rl.episodes.exploration: got 'astar'; must be one of 'policy', "
     "'beam', "),
    (dict(num_episodes=1),
     "config.rl.episodes.num_episodes: got 1 with exploration 'mcts'; must be "
     'at least'),
    (dict(window=1),
     "config.rl.episodes.window: got 1 with exploration 'mcts', whose"),
    (dict(advantage='vineppo'),
     "config.rl.credit.advantage: got 'vineppo' with exploration 'mcts'; must "
     'be one of reinforce, rloo'),
    (dict(search=_SEARCH | dict(outcome='verifier')),
     "config.rl.search.outcome: got 'verifier' with exploration 'mcts'; must "
     "be 'value'"),
    (dict(search=_SEARCH | dict(value='oracle')),
     "config.rl.search.value: got 'oracle' with exploration 'mcts'; must be "
     "'likelihood' or 'head'"),
    (dict(search=_SEARCH | dict(beam_width=4), exploration='dvts'),
     'config.rl.search: dvts: '),
    (dict(search=_SEARCH | dict(step_length=13)),
     'config.rl.episodes.episode_length: got 5; 5 tokens of a trajectory '
     'after prompts of 88 must be at most config.model.max_length, 64')])
def test_errors(changes, message):
  with pytest.raises(config_lib.ConfigError) as e:
    small_rl.experiment(**_settings(**changes))
  assert str(e.value).startswith(message)
  assert '\n' not in str(e.value)


def test_a_search_by_values_needs_a_head():
  changed = small_rl.settings(
      **_settings(search=_SEARCH | dict(value='head')))
  model = dataclasses.replace(_run().model, value_head='none')
  programs = dataclasses.replace(
      _run().setup.programs, settings=changed, model=model)
  with pytest.raises(
      config_lib.ConfigError, match="config.rl.search.value: got 'head'"):
    programs.of('erl2').check()
