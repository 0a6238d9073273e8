# SPDX-License-Identifier: Apache-2.0
"""Stage 5: what the models learned, beside the searches that taught them.

Leaves `eval/`: summary.json, report.md, PNG plots, samples of every arm. All
hosts decode and judge; the first one writes.
"""

import dataclasses
import functools
import json
import logging

from etils import epath
import jax

from data_pipelines import arms
from data_pipelines import tokenizers
from meta_cot import decode
from meta_cot import sharding
from meta_cot import tasks
from meta_cot import traces
from meta_cot import types
from meta_cot.evaluation import best_of_n
from meta_cot.evaluation import report
from meta_cot.evaluation import statistics
from meta_cot.evaluation import summaries
from meta_cot.evaluation import symbolic
from meta_cot.evaluation import trees
from meta_cot.runtime import distributed
from meta_cot.runtime import files
from meta_cot.solvers import sampling as sampling_lib
from meta_cot.solvers import verdicts
from meta_cot.stages import experiment as experiment_lib
from meta_cot.stages import generate_traces
from meta_cot.stages import problems as problems_lib
from meta_cot.stages import sft
from meta_cot.tasks import base
from meta_cot.traces import record as record_lib
from meta_cot.training import checkpoint
from meta_cot.training import metrics as metrics_lib
from meta_cot.training import optimizer
from meta_cot.training import state as state_lib

_NUM_SAVED = 50  # completions kept per arm and split, to be read


def run(
    experiment: experiment_lib.Experiment, workdir: epath.Path
) -> None:
  """Evaluates every arm on the test splits and writes the report.

  What chooses (the learning curve, how long an answer may be) looks at the
  validation split.
  """
  mesh = sharding.make_mesh(experiment.mesh)
  with sharding.use_mesh(mesh):
    evaluation = _Evaluation(experiment, workdir, mesh)
    summary = evaluation.summary()
  if distributed.is_primary():
    _write(evaluation, summary, workdir)
  distributed.wait('evaluate')


def _write(evaluation, summary, workdir) -> None:
  directory = workdir / 'eval'
  files.write_json(directory / 'summary.json', summary)
  for name, text in evaluation.samples.items():
    files.write_atomic(directory / 'samples' / f'{name}.jsonl', text)
  report.write(directory, summary, examples=evaluation.examples())
  logging.info('report: %s', directory / 'report.md')


class _Evaluation:
  """The decoding and judging of one run; state is what it has read so far."""

  def __init__(self, experiment, workdir, mesh):
    self._experiment = experiment
    self._workdir = workdir
    self._mesh = mesh
    self._style = experiment.data.style
    self._task = tasks.make(
        experiment.task.kind, experiment.task.settings, experiment.seed)
    self._tokenizer = tokenizers.load(workdir / 'tokenizer')
    self._count = symbolic.token_counter(self._tokenizer.encode, self._style)
    read = functools.partial(
        problems_lib.read, workdir, limit=experiment.evaluation.num_problems)
    self._problems = {
        split: read(split) for split in tasks.test_splits(self._task)
        if self._task.size(split)}
    self._main = next(iter(self._problems))  # the split of all comparisons
    self._validation = read(base.VALIDATION)
    self._solved = {}  # arm -> whether each problem was
    self._searches = []  # solved texts of the trace arm
    self.samples = {}

  def summary(self) -> dict:
    """Everything the report says, as JSON values."""
    summary = {arm: self._arm(arm) for arm in self._experiment.arms}
    if self._task.teacher is not None:
      summary['symbolic'] = self._symbolic()
    if 'traces' in summary:
      self._compare(summary)
    return summary

  def _compare(self, summary: dict) -> None:
    """Adds to every other arm how the trace arm differs from it."""
    reference = summary['traces']
    for arm in self._experiment.arms:
      values = summary[arm]
      if arm != 'traces':
        values['best_of_n'] |= self._fair(values['best_of_n'], reference)
        values['traces_minus_this'] = statistics.difference_interval(
            self._solved[arm], self._solved['traces'])._asdict()

  def examples(self) -> list[trees.Tree]:
    """Two searches to draw, a short and a longer one.

    They are the trace model's own; the teacher's where it wrote none well.
    """
    drawn = [trees.from_text(text, self._style) for text in self._searches]
    drawn = [tree for tree in drawn if tree is not None] or [
        trees.from_record(r) for r in self._taught(self._problems[self._main])
        if r.is_solved]
    drawn.sort(key=lambda tree: len(tree.nodes))
    return drawn and [drawn[len(drawn) // 4], drawn[len(drawn) * 3 // 4]]

  def _arm(self, arm: str) -> dict:
    """Greedy success per split, learning curve, best-of-N."""
    saved = _Saved(self._experiment, self._workdir, arm, self._mesh)
    steps = saved.steps()
    decoder = self._decoder(arm, temperature=0.0)
    params = saved.params(steps[-1])
    results = {
        split: self._solve(decoder, params, problems)
        for split, problems in self._problems.items()}
    for split in results:
      self.samples[f'{arm}_{split}'] = _rows(results[split][:_NUM_SAVED])
    self._solved[arm] = [r.verdict.is_correct for r in results[self._main]]
    if arm == 'traces':
      self._searches = [
          r.completion.text for r in results[self._main]
          if r.verdict.is_correct]
    by_split = {s: summaries.of_completions(r) for s, r in results.items()}
    values = dict(
        by_split[self._main], splits=by_split, training=saved.training(),
        curve=[self._point(saved, decoder, step) for step in steps],
        losses=saved.losses())
    values['best_of_n'] = self._best_of_n(arm, params)
    saved.close()
    logging.info(
        '%s: %.1f%% of %d test problems', arm, 100 * values['success'],
        values['num_problems'])
    return values

  def _point(self, saved, decoder, step) -> dict:
    problems = self._validation[
        :self._experiment.evaluation.num_curve_problems]
    results = self._solve(decoder, saved.params(step), problems)
    point = summaries.of_completions(results)
    return dict(
        step=step, tokens=saved.tokens(step), success=point['success'],
        ci95=point['ci95'])

  def _decoder(self, arm, *, temperature) -> sampling_lib.Decoder:
    """Completes up to twice the longest reference of the arm."""
    evaluation = self._experiment.evaluation
    lengths = [
        self._reference_length(arm, record)
        for record in self._taught(self._validation)]
    max_new_tokens = evaluation.max_new_tokens
    if lengths:
      max_new_tokens = min(2 * max(lengths), max_new_tokens)
    sampling = decode.Sampling(
        temperature=temperature,
        top_k=evaluation.top_k if temperature else None,
        top_p=evaluation.top_p if temperature else None)
    return sampling_lib.Decoder(
        self._experiment.model, self._tokenizer, self._mesh,
        batch_size=evaluation.batch_size,
        max_new_tokens=max_new_tokens, sampling=sampling)

  def _taught(self, problems) -> list[record_lib.TraceRecord]:
    """The teacher's searches of problems; none without a teacher."""
    if self._task.teacher is None:
      return []
    return list(generate_traces.search(
        self._task.teacher, self._experiment.traces.strategies,
        self._experiment.seed, problems, 0, len(problems)))

  def _reference_length(self, arm, record) -> int:
    events = arms.reference(arm, record)
    if events is None:
      return 1
    text = traces.render(events, style=self._style)
    prompt = traces.prompt(record.problem, style=self._style)
    return len(self._tokenizer.encode(text[len(prompt):])) + 1

  def _complete(self, decoder, params, problems):
    """One completion for every problem."""
    return decoder(
        params, [traces.prompt(p, style=self._style) for p in problems],
        jax.random.key(self._experiment.seed))

  def _solve(self, decoder, params, problems) -> list[verdicts.Result]:
    return [
        verdicts.judge(self._task, problem, completion, self._style)
        for problem, completion in zip(
            problems, self._complete(decoder, params, problems))]

  def _best_of_n(self, arm, params) -> dict:
    """Samples a few long traces or many short solutions per problem."""
    evaluation = self._experiment.evaluation
    asked, copies = self._problems[self._main], evaluation.num_samples
    if arm == 'traces':
      asked = asked[:evaluation.num_curve_problems]
      copies = evaluation.num_trace_samples
    decoder = self._decoder(arm, temperature=evaluation.temperature)
    problems = [p for p in asked for _ in range(copies)]
    completions = self._complete(decoder, params, problems)
    is_correct = [
        verdicts.verify(self._task, p, c, self._style).is_correct
        for p, c in zip(problems, completions)]
    correct = [
        sum(is_correct[i:i + copies])
        for i in range(0, len(is_correct), copies)]
    tokens = sum(c.num_tokens for c in completions) / len(completions)
    return dict(
        num_problems=len(asked), num_samples=copies,
        temperature=evaluation.temperature, mean_tokens=tokens,
        num_correct=correct,
        curve=[
            dataclasses.asdict(p)
            for p in best_of_n.curve(correct, copies, tokens)])

  def _fair(self, samples: dict, reference: dict) -> dict:
    """Best-of-N at the tokens of the trace model, and where it catches up."""
    arguments = (
        samples['num_correct'], samples['num_samples'], samples['mean_tokens'])
    equal = best_of_n.at_tokens(*arguments, reference['mean_tokens'])
    catch_up = best_of_n.catch_up(*arguments, reference['success'])
    return dict(
        equal_tokens=dataclasses.asdict(equal),
        catch_up=catch_up and dataclasses.asdict(catch_up))

  def _symbolic(self) -> dict:
    """The teacher on the same problems, and every strategy beside it."""
    by_split = {
        split: symbolic.summarise(self._taught(problems), self._count)
        for split, problems in self._problems.items()}
    runs = symbolic.run_all(
        self._task.teacher, self._problems[self._main], self._experiment.seed)
    return dict(
        by_split[self._main], splits=by_split,
        strategies={
            name: symbolic.summarise(run, self._count)
            for name, run in runs.items()})


class _Saved:
  """The checkpoints and metrics that an arm's training left."""

  def __init__(self, experiment, workdir, arm, mesh):
    self._directory = workdir / 'sft' / arm
    self._checkpoints = checkpoint.Checkpoints(
        self._directory / 'checkpoints', experiment.checkpoint)
    self._summary = files.read_json(self._directory / 'summary.json')
    self._rows = metrics_lib.read(self._directory / 'metrics.jsonl')
    self._abstract, _ = state_lib.shardings(
        sft.init_fn(experiment),
        optimizer.make(experiment.optimizer, self._summary['num_steps']), mesh)

  def steps(self) -> list[int]:
    return self._checkpoints.steps()

  def params(self, step: int) -> types.Params:
    return self._checkpoints.restore_state(self._abstract, step).params

  def tokens(self, step: int) -> float:
    return sum(row['tokens'] for row in self._rows if row['step'] <= step)

  def training(self) -> dict:
    return self._summary

  def losses(self) -> dict:
    """Training and validation loss by tokens seen."""
    total, train, validation = 0.0, [], []
    for row in self._rows:
      total += row['tokens']
      train.append([total, row['loss']])
      if 'eval_loss' in row:
        validation.append([total, row['eval_loss']])
    return dict(train=train, validation=validation)

  def close(self) -> None:
    self._checkpoints.close()


def _rows(results: list[verdicts.Result]) -> str:
  return ''.join(
      json.dumps(dict(
          id=r.problem.id, text=r.completion.text,
          tokens=r.completion.num_tokens, is_correct=r.verdict.is_correct,
          reason=r.verdict.reason, error=r.analysis.primary_error)) + '\n'
      for r in results)
