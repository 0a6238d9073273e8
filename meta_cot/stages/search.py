# SPDX-License-Identifier: Apache-2.0
"""Stage `search`: trees over steps of a trained model's solutions.

Leaves `search/`: summary.json and report.md, the records of every strategy
(`search/<strategy>/`, to be read as `traces/` is) and searches told as text.
All hosts search; the first one writes.
"""

from collections.abc import Iterator, Sequence
import dataclasses
import functools
import json
import logging
import time

from etils import epath
import jax
import numpy as np

from data_pipelines import store
from data_pipelines import tokenizers
from meta_cot import decode
from meta_cot import sharding
from meta_cot import tasks
from meta_cot import traces
from meta_cot.evaluation import best_of_n
from meta_cot.evaluation import search_report
from meta_cot.evaluation import statistics
from meta_cot.evaluation import summaries
from meta_cot.runtime import distributed
from meta_cot.runtime import files
from meta_cot.search import voting
from meta_cot.settings import config as config_lib
from meta_cot.solvers import sampling as sampling_lib
from meta_cot.solvers import searching
from meta_cot.solvers import trees
from meta_cot.solvers import verdicts
from meta_cot.stages import experiment as experiment_lib
from meta_cot.stages import problems as problems_lib
from meta_cot.stages import sft
from meta_cot.stages import workdir as workdir_lib
from meta_cot.traces import record as record_lib

_NUM_SAVED = 50  # searches kept as text per strategy


def run(
    experiment: experiment_lib.Experiment, workdir: epath.Path
) -> None:
  """Searches test problems with every strategy and writes the report.

  Raises:
    ConfigError: the arm was not trained, task or style have no steps to
      search, or the settings allow no search.
  """
  check(experiment)
  mesh = sharding.make_mesh(experiment.mesh)
  with sharding.use_mesh(mesh):
    searched = _Stage(experiment, workdir, mesh).run()
  if distributed.is_primary():
    _write(workdir / 'search', experiment, searched)
  distributed.wait('search')


def check(experiment: experiment_lib.Experiment) -> None:
  """Raises a ConfigError where the stage cannot search with these settings."""
  if experiment.search.arm not in experiment.arms:
    raise config_lib.ConfigError(
        f'config.search.arm: got {experiment.search.arm!r}; must be one of '
        f'config.arms, {", ".join(experiment.arms)}.')
  if tasks.make(experiment.task.kind).states is None:
    raise config_lib.ConfigError(
        f'config.task.kind: got {experiment.task.kind!r}; the stage search '
        'needs a task that has states.')
  if experiment.data.style != trees.STYLE:
    raise config_lib.ConfigError(
        f'config.data.style: got {experiment.data.style!r}; the stage search '
        f'needs {trees.STYLE!r}, whose solutions have one step after '
        'another.')


@dataclasses.dataclass(frozen=True)
class _Results:
  """What the stage found."""

  summary: dict
  searches: dict[str, list[trees.Searched]]


@dataclasses.dataclass(frozen=True)
class _Plain:
  """Completions without a search, sampled or greedy."""

  completions: list[sampling_lib.Completion]
  is_correct: list[bool]
  seconds: float  # compiling not counted
  occupancy: float

  def costs(self) -> dict:
    tokens = [c.num_tokens for c in self.completions]
    return dict(
        mean_tokens=sum(tokens) / len(tokens), seconds=self.seconds,
        occupancy=self.occupancy)


class _Stage:
  """The searches of one run, and what they are compared with."""

  def __init__(self, experiment, workdir, mesh):
    self._experiment = experiment
    self._settings = experiment.search
    self._mesh = mesh
    self._task = tasks.make(experiment.task.kind)
    self._split = tasks.test_splits(self._task)[0]
    self._tokenizer = tokenizers.load(workdir / 'tokenizer')
    self._problems = problems_lib.read(
        workdir, self._split, self._settings.num_problems)
    self._searcher = searching.Searcher(
        self._task, experiment.model, self._tokenizer, mesh, self._settings)
    self._searcher.check(self._problems)
    self._step, self._params = sft.restore(
        experiment, workdir / 'sft' / self._settings.arm, mesh)
    self._rng = jax.random.key(experiment.seed)

  def run(self) -> _Results:
    """Greedy decoding, samples, then every strategy."""
    greedy = self._complete(decode.Sampling(temperature=0.0), copies=1)
    samples = self._complete(
        self._settings.sampling(), copies=self._settings.num_samples)
    found = {name: self._search(name) for name in self._settings.strategies}
    strategies = {
        name: values | self._beside(found[name][0], values, greedy, samples)
        for name, (_, values) in found.items()}
    solved = sum(greedy.is_correct)
    total = len(self._problems)
    summary = dict(
        arm=self._settings.arm, step=self._step, split=self._split,
        num_problems=total,
        settings=dataclasses.asdict(self._settings),
        greedy=greedy.costs() | dict(
            success=solved / total,
            ci95=list(statistics.wilson(solved, total))),
        best_of_n=samples.costs() | dict(
            num_samples=self._settings.num_samples,
            curve=[
                dataclasses.asdict(point) for point in best_of_n.curve(
                    *self._counts(samples))]),
        strategies=strategies)
    return _Results(summary, {name: f for name, (f, _) in found.items()})

  def _search(self, name) -> tuple[list[trees.Searched], dict]:
    done = self._searcher(name, self._params, self._problems, self._rng)
    read = trees.Reader(
        self._task, self._tokenizer, strategy=name,
        arguments=dataclasses.asdict(self._settings),
        seed=self._experiment.seed,
        model=f'{self._settings.arm}, step {self._step}')
    found = [
        read(problem, f.result.output.tree, f.result.tokens, f.result.lengths,
             int(f.result.output.solution_index), f.num_steps)
        for problem, f in zip(self._problems, done.finished, strict=True)]
    values = summaries.of_searches(found) | dict(
        seconds=done.seconds, occupancy=done.occupancy)
    logging.info(
        '%s: %.1f%% of %d problems, %.0f tokens each, %.1f s, occupancy '
        '%.0f%%', name, 100 * values['success'], len(found),
        values['mean_tokens'], done.seconds, 100 * done.occupancy)
    return found, values

  def _complete(self, sampling, *, copies) -> _Plain:
    """Completes every prompt `copies` times, and judges."""
    depth = self._settings.depth(self._task, self._problems)
    batch_size = self._experiment.evaluation.batch_size
    decoder = sampling_lib.Decoder(
        self._experiment.model, self._tokenizer, self._mesh,
        batch_size=batch_size,
        max_new_tokens=depth * self._settings.step_length, sampling=sampling)
    problems = [p for p in self._problems for _ in range(copies)]
    prompts = [traces.prompt(p, style=trees.STYLE) for p in problems]
    longest = max(prompts, key=lambda p: len(self._tokenizer.encode(p)))
    decoder(self._params, [longest], self._rng)  # compiles
    start = time.perf_counter()
    completions = decoder(self._params, prompts, self._rng)
    seconds = time.perf_counter() - start
    is_correct = [
        verdicts.verify(self._task, p, c, trees.STYLE).is_correct
        for p, c in zip(problems, completions)]
    return _Plain(
        completions, is_correct, seconds, _occupancy(completions, batch_size))

  def _counts(self, samples: _Plain) -> tuple[list[int], int, float]:
    """Right samples per problem, their number, and the tokens of one."""
    copies = self._settings.num_samples
    correct = [
        sum(samples.is_correct[i:i + copies])
        for i in range(0, len(samples.is_correct), copies)]
    return correct, copies, samples.costs()['mean_tokens']

  def _beside(self, found, values, greedy, samples) -> dict:
    """A strategy beside greedy decoding and samples of as many tokens."""
    equal = best_of_n.at_tokens(
        *self._counts(samples), values['mean_tokens'])
    return dict(
        minus_greedy=statistics.difference_interval(
            greedy.is_correct, [f.is_solved for f in found])._asdict(),
        equal_tokens=dataclasses.asdict(equal) | dict(
            majority=self._majority(samples, equal.k),
            seconds=samples.seconds * equal.k / self._settings.num_samples))

  def _majority(self, samples: _Plain, k: int) -> float:
    """Share of problems whose most frequent answer of k is right."""
    copies, ids = self._settings.num_samples, {}
    answers = [
        traces.extract_answer(c.text, trees.STYLE) if c.is_finished else None
        for c in samples.completions]
    answers_BxS = np.array([
        -1 if a is None else ids.setdefault(a, len(ids))
        for a in answers]).reshape(-1, copies)[:, :k]
    chosen_B = np.asarray(jax.jit(voting.majority)(answers_BxS))
    is_correct_BxS = np.array(samples.is_correct).reshape(-1, copies)
    picked_B = np.take_along_axis(
        is_correct_BxS, np.maximum(chosen_B, 0)[:, None], axis=1)[:, 0]
    return float(np.mean(picked_B & (chosen_B >= 0)))


def _occupancy(completions, batch_size: int) -> float:
  """Share of the decoder's row-steps that made a token."""
  rows = [
      [c.num_tokens for c in completions[i:i + batch_size]]
      for i in range(0, len(completions), batch_size)]
  return sum(map(sum, rows)) / sum(max(r) * batch_size for r in rows)


def _write(directory, experiment, results: _Results) -> None:
  """Records, texts, summary and report; of earlier settings nothing stays."""
  # A run that is killed in here must not look finished, with any settings.
  workdir_lib.forget(directory.parent, directory.name)
  if directory.exists():
    directory.rmtree()
  examples = {}
  for name, found in results.searches.items():
    store.generate(
        directory / name,
        functools.partial(_records, [f.record for f in found]),
        kind=record_lib.KIND, split=results.summary['split'],
        num_records=len(found), num_shards=1, num_processes=1,
        arguments=dict(
            seed=experiment.seed, strategy=name,
            **dataclasses.asdict(experiment.search)))
    told = [(f, trees.told(f.record)[0]) for f in found[:_NUM_SAVED]]
    files.write_atomic(
        directory / 'samples' / f'{name}.jsonl', ''.join(
            json.dumps(dict(
                id=f.record.problem.id, text=text, tokens=f.num_tokens,
                is_correct=f.is_solved)) + '\n' for f, text in told))
    examples[name] = next((text for f, text in told if f.is_solved), None)
  files.write_json(directory / 'summary.json', results.summary)
  search_report.write(directory, results.summary, examples)
  logging.info('report: %s', directory / 'report.md')


def _records(
    records: Sequence[traces.TraceRecord], start: int, stop: int
) -> Iterator[traces.TraceRecord]:
  yield from records[start:stop]
