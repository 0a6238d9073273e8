# SPDX-License-Identifier: Apache-2.0
"""Parts python and mctx of benchmarks/search.py: against other libraries."""

import argparse
from collections.abc import Iterator
import dataclasses
import importlib.util
import pathlib
import tempfile

import numpy as np

from benchmarks import search_workloads as workloads
from benchmarks import timing
from meta_cot.model import config as model_config
from meta_cot.settings import config as config_lib
from meta_cot.types import Params

PYTHON_STRATEGIES = ('beam', 'best_first', 'puct')
_PAIRS = {'puct': 'muzero', 'gumbel': 'gumbel'}  # ours: that of mctx
_MLP_DEPTH = 16


def python(
    model: model_config.ModelConfig, size: workloads.Searching,
    arguments: argparse.Namespace,
) -> Iterator[dict]:
  """The same searches in Python over transformers; one line each.

  Raises:
    UserError: the peer cannot run.
  """
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    np.savez(
        folder / 'weights.npz', **to_torch(model, workloads.params(model)))
    for strategy in sorted({*PYTHON_STRATEGIES} & {*arguments.strategies}):
      for questions in arguments.questions:
        yield _against_python(
            model, dataclasses.replace(size, problems=questions), strategy,
            arguments, folder)


def _against_python(model, size, strategy, arguments, folder) -> dict:
  asked = min(size.problems, arguments.peer_questions)
  np.save(folder / 'prompts.npy', workloads.prompts(model, size)[:asked])
  call = workloads.searching(model, size, strategy)
  tree = call().output.tree
  with timing.peer(
      'transformers', arguments.transformers_python,
      peer_settings(model, size, strategy, folder)) as rival:
    ours = timing.of_function('ours', call)
    costs = timing.measure([ours, rival], arguments.repeats, is_warm=True)
  tokens = dict(
      ours=int(np.sum(tree.num_tokens)),
      transformers=asked * rival.facts['tokens_per_problem'])
  return dict(
      part='python', strategy=strategy, questions=size.problems,
      peer_questions=asked, children=workloads.num_children(tree),
      **_sized(size), **rates(costs, tokens),
      ratio=ratio(costs, tokens, 'ours', 'transformers'), **rival.facts)


def peer_settings(
    model: model_config.ModelConfig, size: workloads.Searching, strategy: str,
    folder: pathlib.Path,
) -> dict:
  """What the peer must know; it cannot import this project."""
  shape = dataclasses.asdict(model)
  return dict(
      strategy=strategy, weights=str(folder / 'weights.npz'),
      prompts=str(folder / 'prompts.npy'), **dataclasses.asdict(size),
      rope_theta=model.rope.theta, norm_epsilon=model.block.norm_epsilon,
      **{name: shape[name] for name in (
          'vocab_size', 'num_layers', 'embed_dim', 'num_heads', 'num_kv_heads',
          'head_dim', 'mlp_dim', 'max_length')})


def to_torch(
    model: model_config.ModelConfig, params: Params
) -> dict[str, np.ndarray]:
  """The weights by their names in LlamaForCausalLM; the value head besides.

  Raises:
    UserError: the model is not in float32, which the peer computes in.
  """
  dtype = model.execution.compute_dtype
  if dtype != 'float32':
    raise config_lib.UserError(
        f'--dtype: got {dtype}; transformers runs in float32 here; use '
        '--dtype=float32.')
  blocks = params['layers']
  weights = {
      'model.embed_tokens.weight': params['embedder']['embedding'],
      'model.norm.weight': params['final_norm']['scale'],
      'value.kernel': params['value_head']['kernel'],
      'value.bias': params['value_head']['bias']}
  for i in range(model.num_layers):
    matrix = lambda kernel, rows, i=i: kernel[i].reshape(rows, -1).T
    name = f'model.layers.{i}'
    for part in ('q_proj', 'k_proj', 'v_proj', 'o_proj'):
      kernel = blocks['attention'][part]['kernel']
      rows = model.embed_dim if part != 'o_proj' else (
          model.num_heads * model.head_dim)
      weights[f'{name}.self_attn.{part}.weight'] = matrix(kernel, rows)
    for part, mlp in blocks['mlp'].items():
      kernel = mlp['kernel']
      weights[f'{name}.mlp.{part}.weight'] = matrix(kernel, kernel.shape[1])
    for theirs, ours in (('input_layernorm', 'attention_norm'),
                         ('post_attention_layernorm', 'mlp_norm')):
      weights[f'{name}.{theirs}.weight'] = blocks[ours]['scale'][i]
  return {name: np.ascontiguousarray(x) for name, x in weights.items()}


def mctx(
    model: model_config.ModelConfig, size: workloads.Searching,
    arguments: argparse.Namespace,
) -> Iterator[dict]:
  """mctx with a language step, then with one of two small layers.

  Raises:
    UserError: mctx is not installed.
  """
  if importlib.util.find_spec('mctx') is None:
    raise config_lib.UserError(
        "--part: got 'mctx', which is not installed; pip install mctx.")
  model = dataclasses.replace(model, execution=dataclasses.replace(
      model.execution, layer_loop='unroll'))
  for depth in arguments.depths:
    yield from _against_mctx(
        model, dataclasses.replace(
            size, problems=arguments.mctx_problems, max_depth=depth),
        arguments.repeats)
  for simulations in arguments.mlp_simulations:
    yield from _against_mctx_by_mlp(
        arguments.mlp_problems, simulations, arguments.repeats)


def _against_mctx(model, size, repeats) -> Iterator[dict]:
  """Tokens a second with the language model."""
  from benchmarks import mctx_peer  # needs mctx
  calls = {name: workloads.searching(model, size, name) for name in _PAIRS}
  children = {
      name: workloads.num_children(call().output.tree)
      for name, call in calls.items()}
  for policy in _PAIRS.values():
    name = f'mctx_{policy}'
    calls[name] = mctx_peer.searching(model, size, policy)
    children[name] = mctx_peer.num_children(calls[name]())
  costs = _measure(calls, repeats)
  tokens = {name: n * size.step_length for name, n in children.items()}
  for line in _pairs(costs, tokens, dict(
      part='mctx', step='language', **_sized(size), children=children)):
    # As if what mctx wrote again in the same place were new.
    written = tokens | {
        line['ratio_to']: size.problems * size.expansions * size.step_length}
    yield line | dict(ratio_of_written=ratio(
        costs, written, line['strategy'], line['ratio_to']))


def _against_mctx_by_mlp(problems, simulations, repeats) -> Iterator[dict]:
  """Children a second, where the model costs next to nothing."""
  from benchmarks import mctx_peer  # needs mctx
  mlp = workloads.Mlp()
  size = workloads.Searching(
      problems=problems, branching=mlp.branching, max_depth=_MLP_DEPTH,
      expansions=simulations)
  calls = {
      name: workloads.mlp_searching(
          mlp, workloads.strategy(name, size), problems) for name in _PAIRS}
  children = {
      name: workloads.num_children(call().tree)
      for name, call in calls.items()}
  for policy in _PAIRS.values():
    name = f'mctx_{policy}'
    calls[name] = mctx_peer.mlp_searching(
        mlp, policy, simulations=simulations, max_depth=_MLP_DEPTH,
        problems=problems)
    children[name] = mctx_peer.num_children(calls[name]())
  yield from _pairs(_measure(calls, repeats), children, dict(
      part='mctx', step='mlp', problems=problems, branching=mlp.branching,
      max_depth=_MLP_DEPTH, expansions=simulations, children=children,
      unit='children'), simulations=problems * simulations)


def _measure(calls, repeats):
  contestants = [timing.of_function(*pair) for pair in calls.items()]
  return timing.measure(contestants, repeats, is_warm=True)


def _pairs(costs, units, facts, simulations=None) -> Iterator[dict]:
  """A line for each of our rules and that of mctx beside it."""
  for ours, policy in _PAIRS.items():
    theirs = f'mctx_{policy}'
    pair = {name: costs[name] for name in (ours, theirs)}
    line = facts | dict(
        strategy=ours, ratio_to=theirs, **rates(pair, units),
        ratio=ratio(costs, units, ours, theirs))
    if simulations is not None:
      even = dict.fromkeys(pair, simulations)
      line['simulation_ratio'] = ratio(costs, even, ours, theirs)
    yield line


def _sized(size: workloads.Searching) -> dict:
  return dict(
      problems=size.problems, prompt=size.prompt, branching=size.branching,
      step_length=size.step_length, max_depth=size.max_depth,
      beam_width=size.beam_width, expansions=size.expansions)


def rates(costs: dict[str, list[timing.Cost]], units: dict[str, int]) -> dict:
  """Seconds of every contestant, and units (tokens, children) a second."""
  seconds = {
      name: timing.spread([c.seconds for c in of])
      for name, of in costs.items()}
  return dict(
      units={name: units[name] for name in costs}, seconds=seconds,
      per_second={
          name: units[name] / seconds[name]['median'] for name in costs})


def ratio(
    costs: dict[str, list[timing.Cost]], units: dict[str, int], ours: str,
    theirs: str,
) -> dict[str, float]:
  """Seconds a unit of theirs over ours, round by round; above 1: ours wins."""
  return timing.spread([
      b.seconds / units[theirs] / (a.seconds / units[ours])
      for a, b in zip(costs[ours], costs[theirs], strict=True)])
