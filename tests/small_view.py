# SPDX-License-Identifier: Apache-2.0
"""A workdir with something for every page, written in a second, untrained.

Every file is of the project's own writers; the numbers are drawn at random.
"""

import json
import pathlib

from etils import epath
import numpy as np

from configs import countdown as countdown_config
from configs import kinds
from data_pipelines import store
from meta_cot import traces
from meta_cot.evaluation import rows as rows_lib
from meta_cot.evaluation import summary as summary_lib
from meta_cot.rl import kept
from meta_cot.runtime import files
from meta_cot.solvers import base as solvers_base
from meta_cot.stages import workdir as workdir_lib
from meta_cot.tasks import countdown
from meta_cot.traces.arithmetic import teacher
from meta_cot.training import metrics
from meta_cot.training import policy
from tests import small_rl

NUM_STEPS, NUM_QUESTIONS, NUM_SAMPLES, NUM_EPISODES = 3, 2, 3, 3
PROBLEMS = tuple(
    countdown.make_problem(numbers, target) for numbers, target in (
        ([17, 5, 1], 23), ([4, 9, 3], 24), ([2, 5, 9], 16), ([8, 3, 6], 17)))
NUM_TAUGHT = 3  # problems that the teacher has solved
MACHINE = dict(
    platform='tpu', device='TPU v5 lite', num_devices=8, num_hosts=2, jax='1')
STRATEGY, STYLE = teacher.COMPACT, 'compact'
RUN = 'erl2/seed0'


def make(workdir: pathlib.Path) -> pathlib.Path:
  """Writes it."""
  config = countdown_config.get_config('tiny')
  config.search = kinds.evaluate(solvers=('greedy', 'samples', 'beam'))
  config.rl, config.quality = kinds.rl(), kinds.quality()
  config.sft.num_tokens = 1234  # differs from the default
  config.stages = (
      'problems', 'traces', 'sft', 'search', 'rl', 'quality')
  files.write_json(epath.Path(workdir) / 'config.json', config.to_dict())
  for mark, names in (
      ('begun', config.stages), ('done', config.stages[:-1])):
    for name in names:
      path = workdir / mark / f'{name}.json'
      path.parent.mkdir(parents=True, exist_ok=True)
      path.write_text('{}')
  workdir_lib.note_machine(
      epath.Path(workdir), 'sft', MACHINE, is_new=True)
  store.generate(
      epath.Path(workdir) / 'traces',
      lambda start, stop: records()[start:stop],
      kind=traces.record.KIND, split='train', num_records=NUM_TAUGHT,
      num_shards=1, num_processes=1, arguments={})
  noise = np.random.default_rng(0)
  _metrics(workdir / 'sft' / 'traces', 12, ('loss', 'eval_loss'), noise)
  _metrics(workdir / 'rl' / RUN, NUM_STEPS,
           ('success', 'tokens_per_trajectory', 'loss'), noise)
  _policy(workdir / 'rl' / RUN)
  rows = kept.Store(workdir / 'rl' / RUN, 0)
  rows.write(rollouts(noise))
  rows.close()
  _search(workdir / 'search')
  _quality(workdir / 'quality', noise)
  return workdir


def _metrics(directory, number, names, noise) -> None:
  writer = metrics.MetricsWriter(directory, 0)
  for step in range(1, number + 1):
    writer.write(step, {name: noise.random() for name in names})
  writer.close()


def _policy(directory) -> None:
  policy.write(
      epath.Path(directory), small_rl.experiment().shared.model,
      small_rl.tokenizer(), STYLE, {})


def rollouts(noise):
  """Rows of all samples; the last question of a step has no gradient."""
  encode = small_rl.tokenizer().encode
  for step in range(1, NUM_STEPS + 1):
    for question in range(NUM_QUESTIONS):
      problem = PROBLEMS[(step + question) % len(PROBLEMS)]
      for sample in range(NUM_SAMPLES):
        tokens, episode = encode(traces.prompt(problem, style=STYLE)), []
        episode += [-1] * len(tokens)
        for e in range(NUM_EPISODES):
          attempt = encode(f'S{sample}+{e}={step}')
          tokens += attempt
          episode += [e] * len(attempt)
          if e < NUM_EPISODES - 1:
            tokens += encode(',')
            episode += [-1]
        yield _row(
            problem, step, question, sample, tokens, episode, noise)


def _row(problem, step, question, sample, tokens, episode, noise):
  drawn = [e >= 0 for e in episode]
  number = lambda scale: [
      float(np.float32(scale * noise.standard_normal())) if d else 0
      for d in drawn]
  is_flat = question == NUM_QUESTIONS - 1
  behaviour = number(1.0)
  counts = [episode.count(e) for e in range(NUM_EPISODES)]
  return dict(
      step=step, question=10 * step + question, sample=sample, row=0,
      problem=problem.id, text=problem.question,
      rewards=[float(sample == e) for e in range(NUM_EPISODES)],
      num_tokens=counts, is_finished=[sample != 2, True, True],
      is_undecided=[False] * NUM_EPISODES,
      answers=[f'{sample}+{e}={step}' for e in range(NUM_EPISODES)],
      tokens=tokens, episode=episode,
      is_trained=[int(d and step != 2) for d in drawn], behaviour=behaviour,
      trainer=[b + x for b, x in zip(behaviour, number(1e-6))],
      entropy=[abs(x) for x in number(1.0)],
      advantages=[0.0 if is_flat else x for x in number(1.0)],
      kl=number(0.1), values=None)


def records() -> list[traces.TraceRecord]:
  """Searches of the teacher, which stand here for those of a model."""
  return [
      teacher.search(problem, STRATEGY, seed)
      for seed, problem in enumerate(PROBLEMS)]


def _search(directory) -> None:
  found, rows = records(), []
  texts = [
      traces.render(traces.linearize(r), style=STYLE) for r in found]
  who = solvers_base.Policy(
      'sft/traces', small_rl.experiment().shared.model, {},
      small_rl.tokenizer(), STYLE, step=12, trained_tokens=1234.0)
  for solver, number in (('greedy', 1), ('samples', 4), ('beam', 1)):
    outcomes = _outcomes(found, texts, solver, number)
    made = rows_lib.of(who, solver, 'heldout', PROBLEMS, outcomes)
    folder = epath.Path(directory) / (
        f'rows/sft/traces/seed0-step12/{solver}/heldout')
    path = folder / f'0000000-{len(PROBLEMS):07}.0.jsonl'
    folder.mkdir(parents=True)
    if solver == 'beam':
      rows_lib.write_records(path, found)
    rows_lib.write(path, made)
    rows += made
  files.write_json(
      epath.Path(directory) / 'summary.json', summary_lib.of_rows(rows))
  (directory / 'report.md').write_text(
      '# Evaluation: search\n\nIt solves what it solves.\n\n## More\n')


def _outcomes(found, texts, solver, number):
  grid = lambda values: np.repeat(
      np.array(values, object)[:, None], number, axis=1)
  solved = grid([r.is_solved for r in found]).astype(bool)
  solved[:, 1:] = False
  tokens = grid([float(len(text)) for text in texts]).astype(float)
  costs = [dict(
      prompt_tokens=9, forwarded_tokens=9 + len(text), prompt_flops=1e3,
      flops=1e3 * len(text), sequential_tokens=len(text), judges={})
           for text in texts]
  return solvers_base.Outcomes(
      is_correct=solved, is_finished=np.ones_like(solved), num_tokens=tokens,
      answers=grid(['9-3=6\n4*6=24'] * len(found)),
      values=np.ones_like(tokens), seconds=float(number), costs=grid(costs),
      details=dict(text=grid(texts if solver != 'samples' else [''] * 4)))


def _quality(directory, noise) -> None:
  bins = [dict(num_states=7, value=x / 10, target=float(noise.random()))
          for x in range(10)]
  measure = dict(estimate=0.2, low=0.1, high=0.3)
  files.write_json(epath.Path(directory) / 'summary.json', dict(
      num_states=70, num_problems=4, sources={'value/of_mine': dict(
          calibration=bins, brier=measure, mae=measure,
          auc=dict(verdict=measure, target=None))}))


def rows_of(path: pathlib.Path) -> list[dict]:
  """The rows of a JSONL file."""
  return [json.loads(line) for line in path.read_text().splitlines()]
