# SPDX-License-Identifier: Apache-2.0
"""Every program of a search, compiled for TPUs that are not here."""

import dataclasses

from etils import epath
import jax
import libtpu
import numpy as np
import pytest

from configs import countdown
from configs import search as search_config
from meta_cot import sharding
from meta_cot.compile import __main__ as compile_lib
from meta_cot.compile import programs as programs_lib
from meta_cot.compile import topology as topology_lib
from meta_cot.settings import config as config_lib
from meta_cot.solvers import strategies
from meta_cot.stages import experiment as experiment_lib
from meta_cot.training import policy as policy_lib
from tests import small_rl

assert libtpu  # the compiler; without it nothing here can be tested
TINY = '--config=configs/search.py:tiny'
PARTS = ('/fresh', '/refill', '/collect')  # beside one chunk
RULES = ('uct', 'uct_paper', 'puct', 'gumbel')


def _config(
    strategy, *, data=-1, model=1, loop='unroll', **changes):
  """The smallest model; everything else of the search as it is run."""
  config = search_config.get_config('tiny')
  config.model.update(dict(
      num_layers=1 if loop == 'unroll' else 2, embed_dim=64, num_heads=4,
      num_kv_heads=4, head_dim=64, mlp_dim=64))
  config.model.execution.layer_loop = loop
  config.mesh.update(dict(data=data, model=model))
  config.sft.batch_size = 16
  config.sft.data.num_streams = 4
  config.search.solvers = (strategy,)
  config.search.search.update(dict(
      num_slots=16, branching=3, beam_width=2,
      num_expansions=4, num_simulations=4, step_length=6, chunk_steps=2)
      | changes)
  return config


def _experiment(*args, **kwargs):
  return programs_lib.for_accelerator(
      experiment_lib.parse(_config(*args, **kwargs)))


def _compile(experiment, topology, name):
  topology = topology_lib.find(topology)
  result = programs_lib.compile_program(experiment, topology, name)
  assert result.fits
  return result


def _names(experiment):
  """All that the stage compiles."""
  mesh = programs_lib.mesh_of(experiment, topology_lib.find('v5e:2x4'))
  return [
      name for name in experiment_lib.programs(experiment, mesh)
      if name.startswith('search/')]


def _settings(experiment):
  return experiment.groups['search'].settings.search


def _check_chunk(strategy, topology, **settings):
  """Compiles one chunk of the search; checks what must hold for all."""
  experiment = _experiment(strategy, **settings)
  result = _compile(experiment, topology, f'search/{strategy}')
  # Trees are advanced where they are; beside them comes out who is done, when,
  # and with how much work.
  assert 0 < result.memory.outputs - result.memory.aliased < 2**14
  assert 0 < result.utilisation(result.times.overlapped) <= 1
  # A tree policy goes down as deep as its trees are; all else is bounded.
  assert (result.cost.unknown_loops > 0) == (strategy == 'mcts')
  _check_collectives(experiment, result.cost.collectives)
  return result


def _check_collectives(experiment, collectives):
  """Votes, and with a model axis the sums that the model itself needs."""
  reduced = collectives['all-reduce']
  # No part of the vocabulary, of the cache or of a tree goes anywhere. At the
  # end every host learns who is done (1 byte), when (4), and of how many rows
  # how many went on (8), either way.
  assert set(collectives) <= {'all-reduce', 'all-gather'}
  if 'all-gather' in collectives:
    gathered = collectives['all-gather']
    assert gathered.count <= 3
    assert gathered.num_bytes <= 13 * _settings(experiment).num_slots
  if experiment.shared.mesh.model == 1:
    # Flags of 4 bytes while it runs; at the end who is done, and when.
    assert reduced.count >= _settings(experiment).step_length
    assert reduced.num_bytes < 4 * reduced.count + 1024


# Problems over all devices, or a model over two as well.
@pytest.mark.parametrize('strategy, topology, settings', [
    ('beam', 'v5e:2x4', dict(data=4, model=2)),
    ('dvts', 'v6e:2x2', {}),
    ('breadth_first', 'v5p:2x2x1', {}),
    ('depth_first', 'v5e:2x2', {}),
    ('best_first', 'v6e:2x2', dict(
        branching=(3, 1), siblings='without_replacement',
        tree=dict(step_check='task', merging='states'))),
    pytest.param('mcts', 'v6e:2x2', {}, marks=pytest.mark.slow),
    ('mcts', 'v5e:2x2', dict(tree=dict(widening=0.5)))])
def test_a_chunk_of_every_strategy(strategy, topology, settings):
  _check_chunk(strategy, topology, **settings)


@pytest.mark.parametrize('widening', [
    None, pytest.param(1.0, marks=pytest.mark.slow)])
def test_large_trees_are_not_copied(widening):
  result = _check_chunk(
      'best_first', 'v5p:2x2x1', data=2, model=2, loop='scan', num_slots=512,
      step_length=16, num_expansions=32, max_depth=4,
      tree=dict(widening=widening))
  # Of every problem here 97 pages: keys and values of 2 layers, 2 of 4 heads,
  # 16 tokens, 64 wide, bfloat16.
  pages = 256 * 97 * 2 * 2 * 2 * 16 * 64 * 2
  assert pages < result.memory.outputs < 1.2 * pages
  assert result.memory.temporaries < pages / 2


def test_the_programs_around_it():
  experiment = _experiment('mcts', data=4, model=2)
  found = {
      name: _compile(experiment, 'v5e:2x4', name)
      for name in _names(experiment) if name != 'search/mcts'}
  assert list(found) == [
      'search/params', 'search/start', 'search/mcts/fresh',
      'search/mcts/refill', 'search/mcts/collect']
  assert found['search/start'].tokens == 16 * 16  # prompts '20,20,20>60:'
  refill = found['search/mcts/refill'].memory
  assert refill.aliased > 0.9 * refill.outputs > 0
  for name in ('params', 'start', 'mcts/fresh', 'mcts/refill'):
    assert not found[f'search/{name}'].cost.unknown_loops
  # Nothing but what is kept of finished searches leaves its device.
  for name in ('mcts/fresh', 'mcts/refill'):
    assert not found[f'search/{name}'].cost.collectives


@pytest.mark.slow
@pytest.mark.parametrize('topology, data, model', [
    ('v5e:2x4', 8, 1), ('v5e:2x4', 4, 2), ('v5p:2x2x2', 8, 1),
    ('v5p:2x2x2', 4, 2), ('v6e:2x4', 8, 1), ('v6e:2x4', 4, 2)])
@pytest.mark.parametrize('strategy, rule', [
    *((name, 'uct') for name in strategies.STRATEGIES),
    *(('mcts', rule) for rule in RULES[1:])])
def test_everything_everywhere(strategy, rule, topology, data, model):
  settings = dict(rule=rule, data=data, model=model, loop='scan')
  _check_chunk(strategy, topology, **settings)
  experiment = _experiment(strategy, **settings)
  shared = ['search/params', 'search/start'] * (strategy == 'beam')
  own = [f'search/{strategy}{part}' for part in PARTS] * (rule == RULES[0])
  for name in (*shared, *own):
    _compile(experiment, topology, name)


@pytest.mark.parametrize('data, model', [
    pytest.param(8, 1, marks=pytest.mark.slow), (4, 2)])
def test_the_programs_run_one_after_the_other(data, model):
  """Each takes what the others leave, where they leave it."""
  experiment = _experiment('best_first', data=data, model=model)
  mesh = sharding.make_mesh(experiment.shared.mesh)
  random = np.random.default_rng(0)
  flags_B, ids_B = np.ones(16, bool), np.arange(16, dtype=np.int32)
  with sharding.use_mesh(mesh):
    compiled = {
        name.rpartition('/')[2]: build().lower().compile()
        for name, build in experiment_lib.programs(experiment, mesh).items()
        if name == 'sft/init' or name.startswith('search/')}
    inputs = sharding.split_batch(dict(
        prompt=random.integers(4, 60, (16, 16), np.int32),
        length=np.full(16, 12, np.int32),
        problem=dict(
            numbers=random.integers(1, 20, (16, 3), np.int32),
            target=random.integers(10, 60, 16, np.int32))), mesh)
    rng = jax.device_put(jax.random.key(1), sharding.replicated(mesh))
    params = compiled['params'](compiled['init'](rng).params)
    rows, root = compiled['start'](params, inputs, ids_B)
    state = compiled['fresh'](root, flags_B)
    first = _finish(compiled['best_first'], params, rows, rng, state)
    kept = jax.device_get(compiled['collect'](first))
    new_rows, root = compiled['start'](params, inputs, ids_B)
    rows, state = compiled['refill'](rows, first, new_rows, root, flags_B)
    again = _finish(compiled['best_first'], params, rows, rng, state)
  assert np.all(kept.output.tree.num_expansions >= 1)
  assert np.all(kept.output.is_done)
  jax.tree.map(
      np.testing.assert_array_equal, kept,
      jax.device_get(compiled['collect'](again)))


def _finish(advance, params, rows, rng, state):
  """The chunks up to the last one."""
  is_done_B = [False]
  while not np.all(is_done_B):
    state, (is_done_B, *_) = advance(params, rows, rng, state)
  return state


@pytest.mark.parametrize('vocab_size', [128, 2**17])
def test_large_vocabularies_are_judged_on_the_host(vocab_size):
  config = _config('beam')
  config.model.vocab_size = vocab_size
  experiment = experiment_lib.parse(config)
  mesh = sharding.make_mesh(experiment.shared.mesh)
  with sharding.use_mesh(mesh):
    text = experiment_lib.programs(experiment, mesh)[
        'search/beam']().lower().as_text()
  # A table of the tokens' characters would be megabytes of this text.
  assert len(text) < 2**20
  assert ('callback' in text) == (vocab_size > 2**14)


def test_names():
  assert _names(experiment_lib.parse(countdown.get_config('tiny'))) == []
  assert _names(experiment_lib.parse(search_config.get_config())) == [
      'search/prefill', 'search/generate', 'search/params', 'search/start', *(
          f'search/{strategy}{part}'
          for strategy in ('beam', 'dvts', 'best_first', 'mcts')
          for part in ('', *PARTS))]


def test_samples_share_prompts_in_the_program_that_is_listed():
  """Eight devices with two rows each; greedy texts have a prompt a row."""
  config = _config('beam')
  config.search.samples.update(dict(batch_size=16, num_samples=3))
  for solvers, num_prompts in ((('samples', 'greedy'), 8), (('greedy',), 16)):
    config.search.solvers = solvers
    experiment = experiment_lib.parse(config)
    builders = experiment_lib.programs(experiment, programs_lib.mesh_of(
        experiment, topology_lib.find('v5e:2x4')))
    generate = builders['search/generate']()
    assert generate.arguments[1].shape[0] == num_prompts
    assert generate.keywords['row_ids_B'].shape == (16,)
    assert builders['search/prefill']().arguments[2].shape == (num_prompts,)
  result = _compile(experiment_lib.parse(config), 'v5e:2x4', 'search/generate')
  assert result.tokens == generate.tokens


def test_other_models_have_their_programs(tmp_path):
  config = _config('beam')
  model = dataclasses.replace(
      experiment_lib.parse(config).shared.model, mlp_dim=32)
  policy_lib.write(
      epath.Path(tmp_path), model, small_rl.tokenizer(), config.style, {})
  config.search.policies = (*config.search.policies, str(tmp_path))
  config.search.solvers = ('greedy', 'beam')
  experiment = experiment_lib.parse(config)
  builders = experiment_lib.programs(experiment, programs_lib.mesh_of(
      experiment, topology_lib.find('v5e:2x4')))
  start = f'search{tmp_path}/'
  assert [name for name in builders if name.startswith(start)] == [
      f'{start}{name}' for name in ('prefill', 'generate', 'params', 'start', *(
          f'beam{part}' for part in ('', *PARTS)))]
  assert builders[f'{start}params']().arguments[0] == model
  assert builders['search/params']().arguments[0] != model


@pytest.mark.parametrize('arguments, message', [
    (['--config=configs/countdown.py:tiny', '--programs=beam'],
     "--programs: got 'beam'; must be one of sft/init, "),
    ([TINY, '--programs=search/bean'],
     "--programs: got 'search/bean'; did you mean 'search/beam'"),
    ([TINY, '--programs=beam', '--config.search.search.step_length=400'],
     'config.search.search.step_length: got 400; 2 steps after prompts of 16 '
     'tokens must be at most config.model.max_length, 512'),
    ([TINY, '--programs=dvts', '--config.search.search.beam_width=9'],
     'config.search.search: dvts: num_groups: got 9')])
def test_errors(arguments, message):
  with pytest.raises(config_lib.ConfigError) as e:
    compile_lib.main([*arguments, '--topology=v5e:2x2'])
  assert message in str(e.value)
  assert '\n' not in str(e.value)
