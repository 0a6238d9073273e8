# SPDX-License-Identifier: Apache-2.0
"""The search benchmarks: contestants do the same work, all parts print JSON.

Nothing here asserts a speed.
"""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from benchmarks import mctx_peer
from benchmarks import models
from benchmarks import search
from benchmarks import search_rivals
from benchmarks import search_slots
from benchmarks import search_workloads as workloads
from benchmarks import timing
from benchmarks import transformers_peer
from meta_cot.model import transformer
from meta_cot.search import tree as tree_lib

SIZE = workloads.Searching(
    problems=2, prompt=5, branching=3, step_length=4, max_depth=3,
    beam_width=2, expansions=5)
FLAGS = (
    '--model=toy', '--repeats=1', '--problems=3', '--prompt=5',
    '--branching=2', '--step-length=4', '--max-depth=3', '--beam-width=2',
    '--expansions=3')


@functools.cache
def toy():
  return models.get('toy', 'float32')


@functools.cache
def found(name, size=SIZE):
  return workloads.searching(toy(), size, name)()


@pytest.fixture(scope='module')
def peer(tmp_path_factory):
  """The model in transformers, and a function to make its settings."""
  folder = tmp_path_factory.mktemp('peer')
  np.savez(folder / 'weights.npz', **search_rivals.to_torch(
      toy(), workloads.params(toy())))
  settings = functools.partial(
      search_rivals.peer_settings, toy(), SIZE, folder=folder)
  return transformers_peer.Model(settings('beam')), settings


def full_text(name, node):
  """Tokens of a node of problem 0, and how many are its own step's."""
  tree, tokens = found(name).output.tree, found(name).tokens
  path, _ = [], node
  while node != 0:
    path.append(node)
    node = tree.parents[0, node]
  prompt = workloads.prompts(toy(), SIZE)[0].tolist()
  steps = [tokens[0, n].tolist() for n in reversed(path)]
  return sum(steps[:-1], prompt), steps[-1]


@pytest.mark.parametrize('name', search_rivals.PYTHON_STRATEGIES)
def test_both_sides_score_a_text_alike(name, peer):
  model, _ = peer
  tree = found(name).output.tree
  nodes = np.flatnonzero(tree.is_valid[0])[1:]
  deepest = nodes[np.argmax(tree.depths[0, nodes])]
  with torch.inference_mode():
    for node in (nodes[0], deepest):
      before, own = full_text(name, node)
      assert model.values([before + own])[0] == pytest.approx(
          tree.values[0, node], abs=1e-5)
      assert model.log_prob(before, own) == pytest.approx(
          tree.log_probs[0, node], abs=1e-4)
  assert tree.depths[0, deepest] == SIZE.max_depth
  assert tree.values[0, nodes].std() > 0.01  # there is something to choose


def test_log_probs_of_their_sampling_are_those_of_a_pass(peer):
  model, _ = peer
  prompt = workloads.prompts(toy(), SIZE)[0].tolist()
  with torch.inference_mode():
    steps, log_probs = model.continuations([prompt], 3, 4, True)
    for step, log_prob in zip(steps, log_probs, strict=True):
      assert model.log_prob(prompt, step) == pytest.approx(log_prob, abs=1e-4)
  assert len({tuple(step) for step in steps}) == 3


@pytest.mark.parametrize('name', search_rivals.PYTHON_STRATEGIES)
def test_both_sides_make_equally_many_nodes(name, peer):
  model, settings = peer
  tree = found(name).output.tree
  prompt = workloads.prompts(toy(), SIZE)[0].tolist()
  with torch.inference_mode():
    nodes = transformers_peer.search(model, settings(name), prompt)
  expanded = sum(bool(n.children) for n in nodes)
  assert len(nodes) - 1 == SIZE.branching * expanded
  assert tree.num_nodes[0] - 1 == SIZE.branching * tree.num_expansions[0]
  assert (tree.num_nodes[0] - 1) * SIZE.step_length == tree.num_tokens[0]
  assert {len(n.tokens) for n in nodes[1:]} <= {
      len(prompt) + SIZE.step_length * d for d in range(1, 4)}
  if name != 'puct':  # which may visit a node at the greatest depth again
    assert len(nodes) == tree.num_nodes[0]
    assert expanded == tree.num_expansions[0]


class Replayed:
  """Gives a peer the children of a tree of ours, in the same order."""

  def __init__(self, name):
    self._tree, self._tokens = found(name).output.tree, found(name).tokens
    self._nodes = {tuple(workloads.prompts(toy(), SIZE)[0].tolist()): 0}

  def continuations(self, texts, number, length, has_log_probs):
    del length, has_log_probs
    steps, log_probs = [], []
    for text in texts:
      first = self._tree.first_child[0, self._nodes[tuple(text)]]
      assert first != tree_lib.NONE, 'ours did not expand this text'
      for node in range(first, first + number):
        steps.append(self._tokens[0, node].tolist())
        log_probs.append(float(self._tree.log_probs[0, node]))
        self._nodes[(*text, *steps[-1])] = node
    return steps, log_probs

  def values(self, texts):
    return [float(self._tree.values[0, self._nodes[tuple(t)]]) for t in texts]


@pytest.mark.parametrize('name', search_rivals.PYTHON_STRATEGIES)
def test_the_rules_are_the_same(name, peer):
  """Given our children the peer expands what ours expanded, in that order."""
  _, settings = peer
  prompt = workloads.prompts(toy(), SIZE)[0].tolist()
  nodes = transformers_peer.search(Replayed(name), settings(name), prompt)
  tree = found(name).output.tree
  assert len(nodes) == tree.num_nodes[0]
  parents = [n.parent.index if n.parent else tree_lib.NONE for n in nodes]
  np.testing.assert_array_equal(parents, tree.parents[0, :len(nodes)])
  if name == 'puct':
    np.testing.assert_array_equal(
        [n.visits for n in nodes], tree.visit_counts[0, :len(nodes)])


def test_a_text_of_mctx_equals_a_plain_pass():
  """Two steps below the prompts: length, value and output of the trunk."""
  params = workloads.params(toy())
  prompts_BxP = jnp.asarray(workloads.prompts(toy(), SIZE))

  @jax.jit
  def write():
    text = mctx_peer.start(toy(), SIZE, params, prompts_BxP).embedding
    texts = [prompts_BxP]
    for action in (1, 2):
      output, text = mctx_peer.step(
          toy(), SIZE, params, jax.random.key(9),
          jnp.full(SIZE.problems, action), text)
      texts.append(text.tokens)
    hidden_BxLxD = transformer.hidden(
        toy(), params, jnp.concatenate(texts, axis=1))
    value_B = transformer.read_out(
        toy(), params, hidden_BxLxD[:, -1:]).values[:, 0]
    return text, output.value, hidden_BxLxD[:, -1], value_B

  text, value_B, want_hidden_BxD, want_value_B = write()
  np.testing.assert_array_equal(text.length, [13, 13])
  np.testing.assert_allclose(text.hidden, want_hidden_BxD, atol=1e-4)
  np.testing.assert_allclose(value_B, want_value_B, atol=1e-5)


def test_small_layers_are_the_same_step_on_both_sides():
  mlp = workloads.Mlp(width=8)
  tree = workloads.mlp_searching(
      mlp, workloads.strategy('puct', dataclasses.replace(
          SIZE, branching=4, max_depth=6)), problems=2)().tree
  theirs = mctx_peer.mlp_searching(
      mlp, 'gumbel', simulations=5, max_depth=3, problems=2)()
  first = tree.embeddings[:, 1:5]  # all children of the root
  tried = np.argwhere(np.asarray(theirs.children_index[:, 0]) >= 0)
  assert len(tried) >= 4
  for b, action in tried:
    np.testing.assert_allclose(
        theirs.embeddings[b, theirs.children_index[b, 0, action]],
        first[b, action], atol=1e-6)
  assert workloads.num_children(tree) == 2 * 5 * 4
  assert mctx_peer.num_children(theirs) == 2 * 5


def test_nodes_that_mctx_makes_again_count_once():
  theirs = mctx_peer.mlp_searching(
      workloads.Mlp(width=8), 'muzero', simulations=30, max_depth=1,
      problems=2)()
  assert mctx_peer.num_children(theirs) == np.sum(
      theirs.children_index[:, 0] >= 0) <= 2 * 4


def costs_of(**seconds):
  return {
      name: [timing.Cost(second, second) for second in each]
      for name, each in seconds.items()}


def test_overhead_is_what_the_tree_adds():
  """16 tokens in 6 s and prompts in 2; 12 rows of 3 steps of 4 tokens."""
  size = dataclasses.replace(SIZE, max_depth=4)
  line = search.compare(
      costs_of(search=[10.0], plain=[2 * (2.0 + 7.5)], reading=[2.0],
               prompts=[1.0]),
      size, repeats=2, steps=3, share_live=0.5)
  assert line['plain_seconds']['median'] == pytest.approx(0.5 * 12 + 1)
  assert line['overhead']['median'] == pytest.approx(0.3)
  assert line['overhead_of_live_tokens']['median'] == pytest.approx(0.6)


def test_ratio_compares_units():
  costs = costs_of(ours=[1.0, 2.0], theirs=[4.0, 4.0])
  ratio = search_rivals.ratio(costs, dict(ours=10, theirs=5), 'ours', 'theirs')
  assert ratio == dict(median=6.0, min=4.0, max=8.0)


def run(capsys, *flags):
  search.main([*FLAGS, *flags])
  lines = [json.loads(x) for x in capsys.readouterr().out.splitlines()]
  assert all({'device', 'platform', 'date', 'parameters'} <= set(x)
             for x in lines)
  return lines


def test_overhead_prints_a_line_for_every_strategy(capsys):
  line, = run(capsys, '--part=overhead', '--strategies=beam')
  assert (line['strategy'], line['rows'], line['steps']) == ('beam', 12, 3)
  assert line['tokens'] == 12 * 3 * 4
  assert line['live_tokens'] == 3 * (2 + 4 + 4) * 4
  assert all(set(line[x]) == {'median', 'min', 'max'} for x in (
      'overhead', 'overhead_of_live_tokens'))


@pytest.mark.slow
def test_python_prints_a_line_for_every_strategy(capsys):
  line, = run(
      capsys, '--part=python', '--strategies=best_first,uct', '--questions=2',
      '--peer-questions=1')
  assert (line['questions'], line['peer_questions']) == (2, 1)
  assert line['units'] == dict(ours=2 * 24, transformers=24)
  assert line['torch'] and line['transformers']
  theirs, ours = (
      line['seconds'][x]['median'] for x in ('transformers', 'ours'))
  assert line['ratio']['median'] == pytest.approx(2 * theirs / ours)


def test_mctx_prints_pairs(capsys, monkeypatch):
  monkeypatch.setattr(search_rivals, '_PAIRS', dict(puct='gumbel'))
  language, mlp = run(
      capsys, '--part=mctx', '--depths=2', '--mctx-problems=2',
      '--mlp-problems=4', '--mlp-simulations=5')
  assert (language['step'], mlp['step']) == ('language', 'mlp')
  assert language['ratio_to'] == mlp['ratio_to'] == 'mctx_gumbel'
  children = language['children']
  assert 0 < children['mctx_gumbel'] <= 2 * 3
  assert 0 < children['puct'] <= 2 * 3 * 2
  assert language['units'] == {k: 4 * children[k] for k in language['units']}
  assert language['ratio_of_written']['median'] == pytest.approx(
      language['ratio']['median'] * children['mctx_gumbel'] / 6)
  assert mlp['units'] == dict(puct=4 * 5 * 4, mctx_gumbel=4 * 5)
  assert mlp['simulation_ratio']['median'] == pytest.approx(
      mlp['ratio']['median'] / 4)


def test_memory_counts_bytes(capsys):
  shapes, program = run(
      capsys, '--part=memory', '--depths=2', '--strategies=beam')
  model = toy()
  token = 2 * model.num_layers * model.num_kv_heads * model.head_dim * 4
  assert shapes['page_bytes_per_node'] == 4 * token
  assert shapes['whole_cache_bytes_per_node'] == (5 + 2 * 4) * token
  assert shapes['ratio'] > 2
  assert program['nodes'] == 3 * (1 + 2 + 4 + 4)
  assert program['program_bytes_per_node'] > 4 * token


def test_occupancy_counts_every_token_of_every_child(capsys):
  refilled, not_refilled = run(
      capsys, '--part=occupancy', '--slot-problems=7', '--chunk-steps=1',
      '--expansions=6')
  assert refilled['tokens'] == not_refilled['tokens']  # the same trees
  assert refilled['steps'] == not_refilled['steps']
  assert refilled['steps']['min'] < refilled['steps']['max']
  assert refilled['calls'] < not_refilled['calls']
  for line in (refilled, not_refilled):
    assert 0 < line['token_occupancy'] < line['occupancy'] <= 1
    assert line['occupancy'] == pytest.approx(
        7 * line['steps']['mean'] / (3 * line['calls']))


def test_writing_is_counted_by_the_longest_child():
  writing = search_slots.Writing()
  writing.count(np.array([[4, 1], [0, 0]]))
  writing.count(np.array([[2, 2], [1, 2]]))
  assert (writing.tokens, writing.slots, writing.calls) == (12, 24, 2)


@pytest.mark.parametrize('flags, words', [
    (['--questions=1,x'], "got '1,x'; must be numbers of at least 1"),
    (['--problems=0'], "got '0'; must be numbers of at least 1"),
    (['--strategies=beam,astar'], "got 'astar'; must be some of beam"),
    (['--part=speed'], "invalid choice: 'speed'")])
def test_refuses_bad_flags(flags, words, capsys):
  with pytest.raises(SystemExit):
    search.main(['--model=toy', *flags])
  assert words in capsys.readouterr().err
