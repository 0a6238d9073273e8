# SPDX-License-Identifier: Apache-2.0
"""Answers of a model that is told how to answer, by the name of a strategy.

All dialogues of a call go on at the same time. In a round the prompts with as
many texts of the model in them are completed together; they have one width, so
that there are at most three programs.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import functools
import math
import time
import types

import jax
import numpy as np

from data_pipelines import tokenizers
from meta_cot import decode
from meta_cot import sharding
from meta_cot import traces
from meta_cot.problem import Problem
from meta_cot.rollouts import judge as judge_lib
from meta_cot.settings import config as config_lib
from meta_cot.solvers import base
from meta_cot.solvers import costs
from meta_cot.solvers import dialogues
from meta_cot.solvers import instructions
from meta_cot.solvers import sampling
from meta_cot.tasks import base as tasks_base
from meta_cot.traces import behaviours
from meta_cot.types import PRNGKey

STYLE = 'free_text'  # of who can be told anything
_MAX_TRIED = 64  # training problems, to find examples


@dataclasses.dataclass(frozen=True)
class Settings(base.Drawing):
  """How a prompted model writes."""

  batch_size: int = config_lib.setting(low=1)  # texts written together
  max_new_tokens: int = config_lib.setting(low=1)  # of one reply
  num_samples: int = config_lib.setting(low=1)  # dialogues about a problem
  temperature: float = config_lib.setting(low=0.0)  # 0: greedy
  top_k: int | None = config_lib.setting(low=1)
  top_p: float | None = config_lib.setting(above=0.0, high=1.0)
  num_shots: int = config_lib.setting(low=1)  # examples of think_3_shot
  max_attempts: int = config_lib.setting(low=1)  # of think_verify


@dataclasses.dataclass(frozen=True)
class Strategy:
  """What is told."""

  instruction: str
  has_examples: bool = False
  is_verified: bool = False


STRATEGIES: Mapping[str, Strategy] = types.MappingProxyType({
    'baseline': Strategy(instructions.BASELINE),
    'cot': Strategy(instructions.CHAIN_OF_THOUGHT),
    'think': Strategy(instructions.THINK),
    'think_3_shot': Strategy(instructions.THINK, has_examples=True),
    'think_verify': Strategy(instructions.THINK, is_verified=True)})


@dataclasses.dataclass(frozen=True)
class Asker:
  """Makes the prompts of a strategy; needs no policy."""

  name: str  # of STRATEGIES
  settings: Settings
  task: tasks_base.Task

  @property
  def strategy(self) -> Strategy:
    return STRATEGIES[self.name]

  @functools.cached_property
  def examples(self) -> tuple[tuple[str, str], ...]:
    """Questions and solutions of the first training problems that have one.

    Raises:
      ConfigError: there are too few.
    """
    if not self.strategy.has_examples:
      return ()
    found, teacher = [], self.task.teacher
    tried = () if teacher is None else self.task.problems(
        tasks_base.TRAIN, 0, min(_MAX_TRIED, self.task.size(tasks_base.TRAIN)))
    for problem in tried:
      record = teacher.search(problem, teacher.strategies[0], 0)
      if record.is_solved and len(found) < self.settings.num_shots:
        found.append((problem.question, _solution(record)))
    if len(found) < self.settings.num_shots:
      raise config_lib.ConfigError(
          f'solvers: got {self.name!r}; it shows {self.settings.num_shots} '
          f'training problems that the teacher of the task solves, of which '
          f'there are {len(found)}.')
    return tuple(found)

  def first(self, problem: Problem) -> str:
    """Writes what a dialogue begins with."""
    return instructions.solve(
        self.strategy.instruction, self.examples, problem.question)

  def dialogue(self, problem: Problem) -> dialogues.Dialogue:
    """Begins a dialogue."""
    write = functools.partial(self.first, problem)
    if not self.strategy.is_verified:
      return dialogues.ask(write)
    return dialogues.verify(
        write, problem.question, self.settings.max_attempts)

  def widths(
      self, tokenizer: tokenizers.Tokenizer, problems: Sequence[Problem]
  ) -> dict[int, int]:
    """Finds slots for prompts, by how many texts of the model are in them."""
    longest = {}
    for problem in problems:
      for number, text in self._bare(problem):
        longest[number] = max(
            longest.get(number, 0), len(tokenizer.encode_prompt(text)))
    return {
        number: decode.prompt_width(
            length + number * self.settings.max_new_tokens)
        for number, length in longest.items()}

  def _bare(self, problem: Problem) -> list[tuple[int, str]]:
    """All prompts that there may be, without what the model writes."""
    bare = [(0, self.first(problem))]
    if self.strategy.is_verified and self.settings.max_attempts > 1:
      bare += [
          (1, instructions.verify(problem.question, '')),
          (2, instructions.confirm(problem.question, '', '')),
          (2, instructions.retry(problem.question, '', ''))]
    return bare


def _solution(record: traces.TraceRecord) -> str:
  """The solution of a record; its answer is in a box, as is asked for."""
  lines = [record.nodes[i].step for i in record.solution[1:]]
  if 'boxed' not in lines[-1]:
    lines.append(f'The answer is \\boxed{{{record.problem.answer}}}.')
  return '\n'.join(lines)


class Prompter:
  """The solver: dialogues of one strategy about every problem."""

  def __init__(
      self, name: str, settings: Settings, task: tasks_base.Task,
      mesh: jax.sharding.Mesh):
    """Compiles nothing; `name` is one of STRATEGIES."""
    self.asker = Asker(name, settings, task)
    self._task = task
    self._batch_size = sharding.up_to_parts(settings.batch_size, mesh)
    self._compiled = set()
    self._sampler = sampling.Sampler(sampling.Settings(
        batch_size=settings.batch_size, num_samples=1,
        max_new_tokens=settings.max_new_tokens,
        temperature=settings.temperature, top_k=settings.top_k,
        top_p=settings.top_p, judges=(), judge_reading='last', num_verdicts=1),
        task, mesh)

  def __call__(
      self, policy: base.Policy, problems: Sequence[Problem], rng: PRNGKey, *,
      first: int = 0,
  ) -> base.Outcomes:
    """See `base.Solver`."""
    copies = self.asker.settings.num_samples
    asked = [problem for problem in problems for _ in range(copies)]
    writer = _Writer(
        self._sampler, self._batch_size, self._compiled, policy, rng,
        first * copies, self.asker.widths(policy.tokenizer, problems))
    results = dialogues.play([*map(self.asker.dialogue, asked)], writer)
    texts = [
        traces.prompt(problem, style=policy.style) + result.attempt.text
        for problem, result in zip(asked, results)]
    claims = [
        judge_lib.of_text(
            self._task, problem, text, policy.style,
            is_finished=result.attempt.is_finished)
        for problem, text, result in zip(asked, texts, results)]
    details = [
        self._details(policy.style, *each)
        for each in zip(asked, texts, results, claims, strict=True)]
    grid = lambda values, dtype=object: base.objects([
        values[i:i + copies] for i in range(0, len(values), copies)
    ]).astype(dtype)
    return base.Outcomes(
        is_correct=grid([c.verdict.is_correct for c in claims], bool),
        is_finished=grid([r.attempt.is_finished for r in results], bool),
        num_tokens=grid([
            sum(reply.num_tokens for reply in r.replies) for r in results],
            np.float64),
        answers=grid([c.answer for c in claims]),
        values=grid([
            math.exp(r.attempt.log_prob / r.attempt.num_tokens)
            for r in results], np.float64),
        seconds=writer.seconds, occupancy=writer.occupancy,
        details={
            name: grid([each.get(name) for each in details])
            for name in dict.fromkeys(key for each in details for key in each)},
        costs=grid([_cost(policy, r.replies) for r in results]))

  def _details(self, style, problem, text, result, claim) -> dict:
    """What a row says besides; its text has all replies."""
    told = self._sampler.detail(
        style, problem, text, result.attempt.is_finished, claim)
    written = '\n'.join(reply.text for reply in result.replies)
    more = dict(
        attempts=result.num_attempts,
        checks=len(result.replies) - result.num_attempts,
        is_confident=result.is_confident,
    ) if self.asker.strategy.is_verified else {}
    return told | more | dict(
        text=traces.prompt(problem, style=style) + written,
        behaviours=dataclasses.asdict(behaviours.of_text(written)))


@dataclasses.dataclass
class _Writer:
  """A `dialogues.Write` of a policy; counts what it costs."""

  sampler: sampling.Sampler
  batch_size: int
  compiled: set  # programs that have run
  policy: base.Policy
  rng: PRNGKey
  first: int  # number of the first dialogue
  widths: Mapping[int, int]
  seconds: float = 0.0  # compiling not counted
  num_tokens: int = 0
  num_steps: int = 0

  @property
  def occupancy(self) -> float:
    """The share of rows and steps that added a token."""
    return self.num_tokens / (self.num_steps * self.batch_size)

  def __call__(
      self, prompts: Mapping[int, dialogues.Prompt], number: int
  ) -> dict[int, dialogues.Reply]:
    """Completes the prompts of a round."""
    replies, groups = {}, {}
    for i, prompt in prompts.items():
      groups.setdefault(len(prompt.written), {})[i] = prompt
    for written, some in groups.items():
      replies |= self._complete(some, number, self.widths[written])
    return replies

  def _complete(self, prompts, number, width) -> dict[int, dialogues.Reply]:
    tokenizer = self.policy.tokenizer
    texts = [fitted(tokenizer, prompt, width) for prompt in prompts.values()]
    rng = jax.random.fold_in(self.rng, number) if number else self.rng
    complete = functools.partial(
        self.sampler.complete, self.policy, rng=rng, width=width)
    ids = [self.first + i for i in prompts]
    program = self.policy.model, tokenizer.eos_ids, width
    if program not in self.compiled:
      complete(texts[:1], ids=ids[:1])
      self.compiled.add(program)
    start = time.perf_counter()
    found, done = complete(texts, ids=ids)
    self.seconds += time.perf_counter() - start
    lengths, size = done.lengths.tolist(), self.batch_size
    self.num_tokens += sum(lengths)
    self.num_steps += sum(
        max(lengths[i:i + size]) for i in range(0, len(lengths), size))
    return {
        i: dialogues.Reply(
            whole[len(text):], bool(done.is_finished[n]), lengths[n],
            len(tokenizer.encode_prompt(text)),
            float(done.log_probs[n, :lengths[n]].sum()))
        for n, (i, text, whole) in enumerate(
            zip(prompts, texts, found, strict=True))}


def fitted(
    tokenizer: tokenizers.Tokenizer, prompt: dialogues.Prompt, width: int
) -> str:
  """Writes a prompt of at most `width` tokens.

  What the model wrote may be longer when it is read again, where it is no text;
  then its beginning is left out.
  """
  text, written = prompt.write(*prompt.written), prompt.written
  while len(tokenizer.encode_prompt(text)) > width and any(written):
    written = tuple(part[len(part) // 8 + 1:] for part in written)
    text = prompt.write(*written)
  return text


def _cost(policy: base.Policy, replies: Sequence[dialogues.Reply]) -> dict:
  """Counts the cost of a dialogue; every prompt is read as a whole."""
  each = [
      costs.of_text(policy.model, reply.num_prompt, reply.num_tokens, {})
      for reply in replies]
  return each[0] | {
      name: sum(cost[name] for cost in each)
      for name in ('forwarded_tokens', 'flops', 'sequential_tokens')}
