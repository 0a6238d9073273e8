# SPDX-License-Identifier: Apache-2.0
"""Tree search over language-model steps: its overhead, and other libraries.

  source launch/environment.sh
  python -m benchmarks.search --model=S --part=all > search.jsonl
  python -m benchmarks.search --model=M --part=python --questions=8,32

Prints JSON lines; docs/benchmarks.md says what is measured and how to read it.
All contestants have the same weights and sample from the whole distribution at
temperature 1; no token ends a text, so that every step has all its tokens.
The parts:

overhead: a search against `decode.generate`. A step of a search calls the model
  T times on B * K * A rows (problems, leaves expanded together, children of a
  leaf). *Plain* is as many calls on as many rows: rows that begin with prompts
  of the same length and grow as long as the tree is deep, again and again until
  all calls are made, their reading of prompts taken out and that of the B
  prompts put in. `overhead` = (search - plain) / search. Two kinds of rows in a
  search do no work: those of problems that are finished while others go on, and
  those that a beam keeps free while it has one node, the root.
  `overhead_of_live_tokens` charges them too: its plain side writes only the
  tokens that are in the trees, at the same speed.
python: the same algorithm driven from Python over transformers on the CPU
  (benchmarks/transformers_peer.py), `--questions` problems a call. `ratio` is
  of the seconds a generated token; above 1, ours is faster.
mctx: MCTS with the mctx package (benchmarks/mctx_peer.py); tokens a second with
  the language model, children a second with two small layers in its place. A
  simulation of mctx makes one child, one of ours A: `ratio` compares children
  (or their tokens), `simulation_ratio` simulations.
memory: bytes of a node here, and where every node holds a whole cache.
occupancy: work of slots that are refilled, and of batches that are not, with
  steps and searches of different length. `occupancy` is the share of slot-steps
  with a live problem; `token_occupancy` the share of the token slots of all
  calls of the model that children had not ended in.
"""

import argparse
from collections.abc import Iterator
import dataclasses
import json
import sys

from benchmarks import models
from benchmarks import search_rivals
from benchmarks import search_slots
from benchmarks import search_workloads as workloads
from benchmarks import timing
from meta_cot.model import config as model_config

OVERHEAD_STRATEGIES = ('beam', 'best_first', 'puct', 'uct')


def overhead(
    model: model_config.ModelConfig, size: workloads.Searching,
    arguments: argparse.Namespace,
) -> Iterator[dict]:
  """Searches against plain sampling; one line a strategy."""
  for name in arguments.strategies:
    call = workloads.searching(model, size, name)
    tree = call().output.tree
    rule = workloads.strategy(name, size)
    steps = int(
        tree.depths.max() if rule.num_leaves > 1
        else tree.num_expansions.max())
    rows = size.problems * rule.num_leaves * size.branching
    repeats = -(-steps // size.max_depth)
    plain = lambda rows, tokens, calls=1: workloads.sampling(
        model, models.Decoding(rows, size.prompt, tokens), calls)
    contestants = [timing.of_function(*pair) for pair in (
        ('search', call), ('plain', plain(rows, size.text, repeats)),
        ('reading', plain(rows, 1)),
        ('prompts', plain(size.problems, 1)))]
    costs = timing.measure(contestants, arguments.repeats)
    yield dict(
        part='overhead', strategy=name, rows=rows, steps=steps,
        tokens=rows * steps * size.step_length,
        live_tokens=int(tree.num_tokens.sum()), **dataclasses.asdict(size),
        **compare(costs, size, repeats, steps, share_live=int(
            tree.num_tokens.sum()) / (rows * steps * size.step_length)))


def compare(
    costs: dict[str, list[timing.Cost]], size: workloads.Searching,
    repeats: int, steps: int, share_live: float,
) -> dict:
  """The overheads, round by round.

  Args:
    costs: of 'search'; of 'plain', `repeats` times `size.text` tokens a row; of
      'reading' and 'prompts', prompts and one token in as many rows as plain
      and as there are problems.
    size: of the search.
    repeats: see `costs`.
    steps: of the search.
    share_live: of the tokens that plain writes, those that are in the trees.
  """
  rounds = [
      [cost.seconds for cost in each] for each in zip(*(
          costs[name] for name in ('search', 'plain', 'reading', 'prompts')))]
  plain, overheads, live_overheads = [], [], []
  for search, written, reading, prompts in rounds:
    per_token = (written - repeats * reading) / (repeats * (size.text - 1))
    writing = per_token * steps * size.step_length
    plain.append(writing + prompts)
    overheads.append(1 - (writing + prompts) / search)
    live_overheads.append(1 - (writing * share_live + prompts) / search)
  return dict(
      seconds=timing.spread([search for search, *_ in rounds]),
      plain_seconds=timing.spread(plain),
      overhead=timing.spread(overheads),
      overhead_of_live_tokens=timing.spread(live_overheads))


PARTS = dict(
    overhead=overhead, python=search_rivals.python, mctx=search_rivals.mctx,
    memory=search_slots.memory, occupancy=search_slots.occupancy)


def _numbers(text: str) -> tuple[int, ...]:
  if not all(x.isdecimal() and int(x) for x in text.split(',')):
    raise argparse.ArgumentTypeError(
        f'got {text!r}; must be numbers of at least 1, such as 1,8,32.')
  return tuple(map(int, text.split(',')))


def _number(text: str) -> int:
  if len(_numbers(text)) != 1:
    raise argparse.ArgumentTypeError(f'got {text!r}; must be one number.')
  return int(text)


def _strategies(text: str) -> tuple[str, ...]:
  for name in text.split(','):
    if name not in workloads.STRATEGIES:
      raise argparse.ArgumentTypeError(
          f'got {name!r}; must be some of {", ".join(workloads.STRATEGIES)}.')
  return tuple(text.split(','))


def _parser() -> argparse.ArgumentParser:
  flags = argparse.ArgumentParser(
      description=__doc__,
      formatter_class=argparse.RawDescriptionHelpFormatter)
  flags.add_argument('--model', choices=models.MODELS, required=True)
  flags.add_argument('--part', choices=(*PARTS, 'all'), default='all')
  flags.add_argument(
      '--dtype', choices=('float32', 'bfloat16'), default='float32')
  flags.add_argument(
      '--repeats', type=_number, default=3, help='rounds that count')
  flags.add_argument(
      '--strategies', type=_strategies, default=OVERHEAD_STRATEGIES,
      help='of overhead, memory and, but for uct and gumbel, python')
  for field in dataclasses.fields(workloads.Searching):
    flags.add_argument(
        f'--{field.name.replace("_", "-")}', type=_number,
        default=field.default)
  flags.add_argument(
      '--questions', type=_numbers, default=(1, 8, 32),
      help='problems of python')
  flags.add_argument(
      '--peer-questions', type=_number, default=32,
      help='the peer of python, which takes them one by one, gets no more')
  flags.add_argument(
      '--depths', type=_numbers, default=(4, 8, 16),
      help='of the trees of mctx and memory')
  flags.add_argument(
      '--mctx-problems', type=_number, default=8, help='with the language step')
  flags.add_argument('--mlp-problems', type=_number, default=64)
  flags.add_argument('--mlp-simulations', type=_numbers, default=(32, 128))
  flags.add_argument(
      '--slot-problems', type=_number, default=512,
      help='of occupancy, in --problems slots')
  flags.add_argument('--chunk-steps', type=_number, default=1)
  flags.add_argument(
      '--transformers-python', default=sys.executable,
      help='interpreter of an environment with torch and transformers')
  return flags


def main(argv: list[str] | None = None) -> None:
  """Runs the parts and prints their lines."""
  arguments = _parser().parse_args(argv)
  timing.check_allocator()
  model = models.get(arguments.model, arguments.dtype)
  size = workloads.Searching(**{
      field.name: getattr(arguments, field.name)
      for field in dataclasses.fields(workloads.Searching)})
  facts = dict(
      workload='search', model=arguments.model,
      parameters=model.num_params(), dtype=arguments.dtype, **timing.machine())
  for part in PARTS if arguments.part == 'all' else (arguments.part,):
    for line in PARTS[part](model, size, arguments):
      print(json.dumps(facts | line), flush=True)


if __name__ == '__main__':
  main()
