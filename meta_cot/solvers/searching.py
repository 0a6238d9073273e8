# SPDX-License-Identifier: Apache-2.0
"""Searches over the steps of a language model's texts, in slots.

With several processes all of them pass the same problems and get the same
trees.
"""

from collections.abc import Callable, Sequence
import dataclasses
import functools
import time
from typing import Any

from flax import struct
import jax
import numpy as np

from meta_cot import reasoning
from meta_cot import sharding
from meta_cot import traces
from meta_cot.model import config as model_config
from meta_cot.model import transformer
from meta_cot.problem import Problem
from meta_cot.rollouts import judge as judge_lib
from meta_cot.rollouts import player as player_lib
from meta_cot.search import base as search_base
from meta_cot.search import batching
from meta_cot.search import engine
from meta_cot.search import values
from meta_cot.solvers import base
from meta_cot.solvers import costs
from meta_cot.solvers import growing
from meta_cot.solvers import host as host_lib
from meta_cot.solvers import scoring
from meta_cot.solvers import strategies
from meta_cot.solvers import trees
from meta_cot.solvers import valuing as valuing_lib
from meta_cot.solvers import vocabulary as vocabulary_lib
from meta_cot.tasks import base as base_task
from meta_cot.traces import format as format_lib
from meta_cot.types import Params, PRNGKey


@struct.dataclass
class Found:
  """What is kept of a finished search."""

  output: engine.SearchOutput  # without embeddings
  tokens: jax.Array  # [B, N, T] int32, of the nodes' steps
  lengths: jax.Array  # [B, N] int32


@functools.partial(jax.jit, static_argnames=('model',))
def slice_layers(model: model_config.ModelConfig, params: Params) -> Params:
  """Compiles `transformer.slice_layers`: the parameters that searches want."""
  return transformer.slice_layers(model, params)


class Searcher:
  """The solver: one search of every problem; compiles its programs once."""

  def __init__(
      self, name: str, settings: strategies.Settings, task: base_task.Task,
      mesh: jax.sharding.Mesh, judge: scoring.Judge | None = None,
  ):
    """Prepares the strategy `name`; compiles nothing.

    `judge` is the one that `settings.judge` names.
    """
    self._name = name
    self._settings = settings
    self._task = task
    self._mesh = mesh
    self._judge = judge
    self._judging = judge and valuing_lib.judge_of(judge, judge.words)
    self._is_warm = set()  # programs that are compiled
    # Others of the same strategy would be compiled again.
    self._slots = functools.cache(self._make_slots)
    self._host = functools.cache(self._make_host)

  def __call__(
      self, policy: base.Policy, problems: Sequence[Problem], rng: PRNGKey, *,
      first: int = 0,
  ) -> base.Outcomes:
    """See `base.Solver`.

    Raises:
      UserError, ValueError: as `prepare`; or the verifier is broken.
    """
    finished, usage, seconds = self.run(policy, problems, rng, first=first)
    kind, style = self._settings.step, policy.style
    read = functools.partial(
        trees.read, judge_lib.Judge(self._task, policy.tokenizer, style), kind,
        strategy=self._name, arguments=dataclasses.asdict(self._settings),
        seed=int(jax.random.key_data(rng).reshape(-1)[-1]),
        model=f'{policy.label}, step {policy.step}')
    records, texts = zip(*(
        read(problem, f.result.output.tree, f.result.tokens, f.result.lengths,
             int(f.result.output.solution_index))
        for problem, f in zip(problems, finished, strict=True)))
    told = [(text, None) for text in texts]
    if kind in vocabulary_lib.SOLUTIONS and self._task.states is not None and (
        format_lib.STYLES[style].EVENT_ENDS):
      told = [trees.told(record, style) for record in records]
    column = lambda values: base.objects([[value] for value in values])
    outputs = [f.result.output for f in finished]
    outcomes = base.Outcomes(
        is_correct=column(r.is_solved for r in records).astype(bool),
        is_finished=column(map(bool, texts)).astype(bool),
        num_tokens=column(o.tree.num_tokens for o in outputs).astype(float),
        answers=column(
            traces.extract_answer(t, style) if t else None for t in texts),
        values=column(o.solution_value for o in outputs).astype(float),
        seconds=seconds, occupancy=usage.occupancy,
        details=dict(
            text=column(text for text, _ in told),
            is_found=column(any(n.is_correct for n in r.nodes)
                            for r in records),
            nodes=column(len(r.nodes) - 1 for r in records),
            nodes_left_out=column(left_out for _, left_out in told),
            expansions=column(int(o.tree.num_expansions) for o in outputs),
            live_passes=column(usage.live_passes for _ in outputs)),
        records=column(records))
    return dataclasses.replace(outcomes, costs=costs.of_searches(
        policy, self._name, self._settings.sources, problems, outcomes,
        judge=self._judge and self._judge.model))

  def run(
      self, policy: base.Policy, problems: Sequence[Problem], rng: PRNGKey, *,
      first: int = 0,
  ) -> tuple[list[batching.Finished], batching.Usage, float]:
    """Searches: (`Found` of every problem in order, usage, seconds)."""
    inputs, strategy = self.prepare(policy, problems, first)
    host = self._host(policy.model, policy.tokenizer, policy.style)
    host.ask_about(dict(enumerate(problems, first)))
    made = self._slots(policy.model, policy.tokenizer, policy.style, strategy)
    params = slice_layers(policy.model, policy.params)
    if judge := self._judge:
      params = params, slice_layers(judge.model, judge.params)
    queue = [batching.Problem(i, row) for i, row in enumerate(inputs, first)]
    program = made, *(x.shape for x in jax.tree.leaves(inputs[0]))
    if program not in self._is_warm:
      self._is_warm.add(program)
      made.warm_up(params, rng, queue[0])
    usage, start = batching.Usage(), time.perf_counter()
    finished = sorted(
        made.run_all(params, rng, queue, usage=usage),
        key=lambda f: f.problem.id)
    if host.error:
      raise host.error
    return finished, usage, time.perf_counter() - start

  def _make_host(self, model, tokenizer, style) -> host_lib.Host:
    return host_lib.Host(
        judge_lib.Judge(self._task, tokenizer, style), vocabulary_lib.of(
            tokenizer, model.vocab_size, style, self._settings.step))

  def _make_slots(self, model, tokenizer, style, strategy) -> batching.Slots:
    host = self._host(model, tokenizer, style)
    return make_slots(
        self._task, model, self._settings, host.words, self._mesh, strategy,
        host=host, judge=self._judging)

  def prepare(
      self, policy: base.Policy, problems: Sequence[Problem], first: int = 0
  ) -> tuple[list[dict], engine.Strategy]:
    """Makes what is searched, in equal shapes, and by which strategy.

    Raises:
      ConfigError: settings that allow no search of the problems.
      UserError: two problems whose inputs for the verdict differ in shape.
      ValueError: no problems.
    """
    if not problems:
      raise ValueError('problems: got none; must be at least one.')
    self._check(policy)
    judged = judge_inputs(
        self._task, self._settings, problems, policy.style,
        policy.model.vocab_size, first)
    depth = self._settings.depth(self._task, problems)
    strategy = strategies.make(self._settings, self._name, depth)
    width = player_lib.prompt_width(policy.tokenizer, problems, policy.style)
    for mine in filter(None, (policy, self._judge)):
      strategies.check_room(mine.model, self._settings, width, depth)
    prompts = player_lib.padded(
        [policy.tokenizer.encode_prompt(traces.prompt(p, style=policy.style))
         for p in problems], width, policy.tokenizer.pad_id)
    return [
        dict(prompt=prompt_P, length=length, problem=problem)
        for prompt_P, length, problem in zip(*prompts, judged)], strategy

  def _check(self, policy) -> None:
    settings, judge = self._settings, self._judge
    growing.check(
        settings.tree, settings.step, self._task, policy.style,
        policy.model.vocab_size)
    valuing_lib.check(
        settings.valuing, settings.value, settings.step, self._task,
        policy.model)
    if judge:
      valuing_lib.check_judge(
          settings.valuing, settings.value, policy.style, self._judging,
          judge.style)
      valuing_lib.check_tokens(
          settings.valuing, policy.tokenizer.fingerprint,
          judge.tokenizer.fingerprint)


def judge_inputs(
    task: base_task.Task, settings: strategies.Settings,
    problems: Sequence[Problem], style: str, vocab_size: int, first: int = 0,
) -> list[dict[str, np.ndarray]]:
  """Collects what is needed to judge a text of every problem, or its steps.

  `first` is the place of the first problem in its split.

  Raises:
    UserError: two problems differ in shape; names them.
  """
  is_judged = (
      settings.outcome == 'verifier' or settings.tree.reads_steps
      or 'rollouts' in settings.sources)
  is_in_graph = vocabulary_lib.is_in_graph(task, style, vocab_size)
  found = [{} for _ in problems]
  if is_judged and is_in_graph:
    found = vocabulary_lib.graph_inputs(task, problems)
  if (is_judged and not is_in_graph) or 'oracle' in settings.sources:
    return [dict(x, index=np.int32(i)) for i, x in enumerate(found, first)]
  return found


def make_slots(
    task: base_task.Task, model: model_config.ModelConfig,
    settings: strategies.Settings, vocabulary: vocabulary_lib.Vocabulary,
    mesh: jax.sharding.Mesh, strategy: engine.Strategy, *,
    host: host_lib.Host | None = None,
    judge: valuing_lib.Judge | None = None,
) -> batching.Slots:
  """Makes the slots of one strategy over problems.

  A problem's inputs are the NumPy arrays prompt [P] and length [], int32, and
  problem, a dict as of `judge_inputs`.
  """
  step_fn, start = make_steps(
      task, model, settings, vocabulary, strategy.widest, host=host,
      judge=judge)
  return batching.Slots(
      strategy, step_fn, start,
      num_slots=sharding.up_to_parts(settings.num_slots, mesh),
      chunk_steps=settings.chunk_steps, collect=_found,
      select=reasoning.select_rows, axes=reasoning.axes,
      put=lambda inputs: sharding.split_batch(inputs, mesh))


def make_steps(
    task: base_task.Task, model: model_config.ModelConfig,
    settings: strategies.Settings, vocabulary: vocabulary_lib.Vocabulary,
    branching: int, *, host: host_lib.Host | None = None,
    judge: valuing_lib.Judge | None = None,
) -> tuple[search_base.StepFn, Callable[..., tuple[Any, search_base.Root]]]:
  """Makes a model's steps, valued as the settings say, and their beginning.

  `branching` is the number of children that the strategy wants at most; `host`
  is for what no compiled program judges, and for an oracle; `judge` is the one
  that `settings.judge` names.

  Returns:
    The step function, and (params, inputs) -> (rows, roots), as `slots.Slots`
    has them; a `problem` of None will do where nothing looks at it. With a
    judge, params are (the model's, the judge's).
  """
  verdict = None
  is_judged = settings.outcome == 'verifier'
  if is_judged or 'rollouts' in settings.sources:
    verdict = host.verdict if host and host.is_verifier else (
        task.in_graph.outcome(vocabulary.texts))
    if settings.step == 'episode':
      verdict = vocabulary_lib.of_last_text(verdict, vocabulary.eos_ids)
  step = reasoning.LanguageStep(
      model, branching=branching,
      step_length=settings.step_length,
      delimiter_ids=vocabulary.delimiter_ids, eos_ids=vocabulary.eos_ids,
      pad_id=vocabulary.pad_id, sampling=settings.sampling(),
      value=valuing_lib.own_value(settings.sources),
      outcome=verdict if is_judged else None,
      has_opening=vocabulary.has_opening, blank_ids=vocabulary.blank_ids,
      has_attempts=settings.step == 'episode', siblings=settings.siblings,
      is_compacted=settings.tree.compaction,
      **settings.tree.functions(task, vocabulary))
  step_fn, start = valuing_lib.valued(settings.value, valuing_lib.Parts(
      step, settings.valuing, judge, verdict, host and host.oracle,
      is_merged=settings.tree.merging != 'none'), is_reward=not is_judged)
  return values.settled(step_fn) if is_judged else step_fn, start


def _found(state: engine.State) -> Found:
  node = values.inner(state.tree.embeddings)
  return Found(
      batching.without_embeddings(state), node.tokens, node.page.length)
