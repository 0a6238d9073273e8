# SPDX-License-Identifier: Apache-2.0
"""Whole texts, sampled or greedy, in fixed-size device batches.

With several processes all of them pass the same prompts and get the same
completions.
"""

from collections.abc import Callable, Sequence
import dataclasses
import functools
import math
import time
from typing import Any

import jax
import numpy as np

from meta_cot import decode
from meta_cot import sharding
from meta_cot import traces
from meta_cot import types
from meta_cot.model import config as model_config
from meta_cot.problem import Problem
from meta_cot.rollouts import judge as judge_lib
from meta_cot.rollouts import player as player_lib
from meta_cot.settings import config as config_lib
from meta_cot.solvers import base
from meta_cot.solvers import costs
from meta_cot.solvers import scoring
from meta_cot.solvers import verdicts
from meta_cot.solvers import vocabulary
from meta_cot.tasks import base as tasks_base
from meta_cot.traces import analysis
from meta_cot.traces import behaviours
from meta_cot.traces import drafts
from meta_cot.traces import format as format_lib


@dataclasses.dataclass(frozen=True)
class Settings(base.Drawing):
  """How texts are drawn."""

  batch_size: int = config_lib.setting(low=1)  # texts together, at most
  max_new_tokens: int = config_lib.setting(low=1)
  num_samples: int = config_lib.setting(low=1)  # of every problem
  temperature: float = config_lib.setting(low=0.0)  # 0: greedy
  top_k: int | None = config_lib.setting(low=1)
  top_p: float | None = config_lib.setting(above=0.0, high=1.0)
  judges: tuple[str, ...] = config_lib.setting(is_unique=True)  # of samples
  judge_reading: str = config_lib.setting(choices=tuple(scoring.READINGS))
  num_verdicts: int = config_lib.setting(low=1)  # of a judge in words

  def greedy(self) -> 'Settings':
    """Changes to the one likeliest text of a problem."""
    return dataclasses.replace(
        self, num_samples=1, temperature=0.0, top_k=None, top_p=None,
        judges=(), judge_reading='last', num_verdicts=1)


@dataclasses.dataclass(frozen=True)
class Layout:
  """How N texts of every prompt lie in batches of one shape.

  Rows of a batch that continue one prompt follow each other and are on one
  device, which reads the prompt once for them. Texts of a prompt that are too
  many for a device are spread evenly over several groups.
  """

  num_samples: int  # N
  num_prompts: int  # R, of a batch; a prompt may be there more than once
  num_rows: int  # B of a batch; R divides it

  @classmethod
  def of(
      cls, batch_size: int, num_samples: int, mesh: jax.sharding.Mesh
  ) -> 'Layout':
    """Finds the largest of at most so many rows, at least one a device."""
    parts = sharding.data_parallelism(mesh)
    of_part = sharding.up_to_parts(batch_size, mesh) // parts
    group = -(-num_samples // -(-num_samples // of_part))
    num_prompts = of_part // group * parts
    return cls(num_samples, num_prompts, num_prompts * group)

  def texts(self, num_prompts: int) -> np.ndarray:
    """Numbers what every row of every batch writes, [batches, B] int32.

    Text i is sample i % N of prompt i // N. What is left of a group repeats its
    last text, and of a batch the first group: they end with them.
    """
    group = self.num_rows // self.num_prompts
    samples = np.arange(-(-self.num_samples // group) * group)
    texts = np.arange(num_prompts)[:, None] * self.num_samples + (
        np.minimum(samples, self.num_samples - 1)[None])
    texts = texts.reshape(-1, group)
    extra = -len(texts) % self.num_prompts
    return np.concatenate([texts, *[texts[:1]] * extra]).reshape(
        -1, self.num_rows).astype(np.int32)


class Sampler:
  """The solver: N texts of every problem.

  Greedy texts are kept, with what `traces.analyze` and the task say of them.
  Samples have what `judges` say of those that are finished, with their value
  heads or in words, by the labels of the judges; and their tokens, if kept.
  """

  def __init__(
      self, settings: Settings, task: tasks_base.Task, mesh: jax.sharding.Mesh,
      judges: Sequence[scoring.Judge] = (), keeps_tokens: bool = False):
    """Compiles nothing; the judges read the tokens of who is asked."""
    self._keeps_tokens = keeps_tokens
    self._settings = settings
    self._task = task
    self._mesh = mesh
    self._judges = judges
    self._batch_size = sharding.up_to_parts(settings.batch_size, mesh)
    self._layout = Layout.of(settings.batch_size, settings.num_samples, mesh)
    self._is_warm = set()
    self._words = functools.cache(vocabulary.of)
    self._generate = functools.cache(functools.partial(
        jit_generate, mesh=mesh, max_new_tokens=settings.max_new_tokens,
        sampling=settings.sampling()))

  def __call__(
      self, policy: base.Policy, problems: Sequence[Problem],
      rng: types.PRNGKey, *, first: int = 0,
  ) -> base.Outcomes:
    """See `base.Solver`."""
    copies = self._settings.num_samples
    asked = [traces.prompt(p, style=policy.style) for p in problems]
    self._warm_up(policy, asked, rng)
    start = time.perf_counter()
    texts, done = self.complete(policy, asked, rng, first)
    prompts = [prompt for prompt in asked for _ in range(copies)]
    judged = self._judged(policy, prompts, done, rng)
    seconds = time.perf_counter() - start
    claims = [
        judge_lib.of_text(
            self._task, problems[i // copies], text, policy.style,
            is_finished=done.is_finished[i])
        for i, text in enumerate(texts)]
    lengths = done.lengths.tolist()
    steps_NxB = done.lengths[self._layout.texts(len(problems))]
    grid = lambda values, dtype: np.array(values, dtype).reshape(-1, copies)
    log_probs = [
        float(each[:length].sum())
        for each, length in zip(done.log_probs, lengths)]
    likelihoods = [
        math.exp(total / length) for total, length in zip(log_probs, lengths)]
    details = self._details(policy, problems, texts, done, claims)
    details |= _counted(policy.style, prompts, texts, grid)
    if judged:
      details |= dict(
          values=grid([
              {scoring.LIKELIHOOD: likelihood} | {
                  label: said[i] for label, said in judged.items()}
              for i, likelihood in enumerate(likelihoods)], object),
          log_prob=grid(log_probs, object))
    return base.Outcomes(
        is_correct=grid([c.verdict.is_correct for c in claims], bool),
        is_finished=grid(done.is_finished, bool),
        num_tokens=grid(lengths, np.float64),
        answers=grid([c.answer for c in claims], object),
        values=grid(likelihoods, np.float64),
        seconds=seconds, occupancy=sum(lengths) / float(
            steps_NxB.max(axis=1).sum() * self._layout.num_rows),
        details=details, costs=grid([
            costs.of_text(
                policy.model, len(policy.tokenizer.encode_prompt(prompt)),
                length, {judge.label: judge.model for judge in self._judges})
            for prompt, length in zip(prompts, lengths)], object))

  def _warm_up(self, policy, asked, rng) -> None:
    """Compiles what prompts as wide as these need, once."""
    size = lambda prompt: len(policy.tokenizer.encode_prompt(prompt))
    longest = max(asked, key=size)
    program = policy.model, decode.prompt_width(size(longest))
    if program not in self._is_warm:
      self._is_warm.add(program)
      _, done = self.complete(policy, [longest], rng)
      one = jax.tree.map(lambda x: x[:1], done)
      self._judged(policy, [longest], one, rng)

  def _searched(self, policy, claims, done) -> list[int | None]:
    """Tokens of every text before the mark of its answer, if it has one."""
    judge = judge_lib.Judge(self._task, policy.tokenizer, policy.style)
    return [
        None if claim.answer is None else judge.searched(
            tokens[:length - 1].tolist())  # behind it the text ends
        for claim, tokens, length in zip(
            claims, done.tokens, done.lengths, strict=True)]

  def _judged(
      self, policy: base.Policy, prompts: Sequence[str],
      done: decode.Generation, rng: types.PRNGKey,
  ) -> dict[str, list[float | None]]:
    """What every judge says of texts; None of those that are not finished."""
    questions = [policy.tokenizer.encode_prompt(prompt) for prompt in prompts]
    written = [
        tokens[:length].tolist()
        for tokens, length in zip(done.tokens, done.lengths)]
    width = decode.prompt_width(max(map(len, questions)))
    return {
        judge.label: [
            value if is_finished else None
            for value, is_finished in zip(
                self._in_words(judge, questions, written, width, rng)
                if judge.words else
                self._values(policy, judge, questions, written, width),
                done.is_finished, strict=True)]
        for judge in self._judges}

  def _in_words(self, judge, questions, written, width, rng) -> list[float]:
    """What a judge says with verdicts."""
    return verdicts.Reader(
        judge.model, judge.tokenizer, judge.words, self._mesh, width,
        self._settings.max_new_tokens, self._settings.num_verdicts,
        self._batch_size)(judge, questions, written, rng)

  def _values(self, policy, judge, questions, written, width) -> list[float]:
    """What a judge says with its value head."""
    reading = self._settings.judge_reading
    found = scoring.read(
        scoring.values, judge,
        [question + text for question, text in zip(questions, written)],
        self._mesh, width=width + self._settings.max_new_tokens,
        batch_size=self._batch_size)
    return [
        scoring.READINGS[reading](
            values[len(question):][self._ends(policy, reading, text)])
        for values, question, text in zip(
            found, questions, written, strict=True)]

  def _ends(self, policy, reading: str, text: list[int]) -> list[int]:
    """Places in a text where a reading looks at values."""
    if reading == 'last':
      return [len(text) - 1]
    words = self._words(
        policy.tokenizer, policy.model.vocab_size, policy.style)
    return (np.cumsum([len(piece) for piece in words.cut(text)]) - 1).tolist()

  def complete(
      self, policy: base.Policy, prompts: Sequence[str], rng: types.PRNGKey,
      first: int = 0, *, ids: Sequence[int] | None = None,
      width: int | None = None,
  ) -> tuple[list[str], decode.Generation]:
    """Writes N texts of every prompt; `num_samples` of the settings.

    Text i is sample i % N of prompt i // N, and is drawn with its own key, that
    of `first` N + i. Calls with the same widths use the same program.

    Args:
      policy: who writes.
      prompts: at least one.
      rng: of all draws.
      first: number of the first prompt.
      ids: numbers of all prompts in its place.
      width: slots for a prompt; None: those that the longest one needs.

    Returns:
      Prompts and continuations, what ends them cut off; and what was
      generated, NumPy.
    """
    tokenizer, layout = policy.tokenizer, self._layout
    generate = self._generate(
        policy.model, eos_ids=tokenizer.eos_ids, pad_id=tokenizer.pad_id)
    encoded = [tokenizer.encode_prompt(prompt) for prompt in prompts]
    width = width or decode.prompt_width(max(map(len, encoded)))
    ids = range(first, first + len(prompts)) if ids is None else ids
    numbers, batches = np.asarray(ids, np.int32) * layout.num_samples, []
    texts_NxB = layout.texts(len(prompts))
    for texts_B in texts_NxB:
      asked_B = texts_B // layout.num_samples
      tokens_RxP, lengths_R = player_lib.padded(
          [encoded[i] for i in asked_B.reshape(layout.num_prompts, -1)[:, 0]],
          width, tokenizer.pad_id)
      *asked, ids_B = sharding.split_batch(
          (tokens_RxP, lengths_R,
           numbers[asked_B] + texts_B % layout.num_samples), self._mesh)
      batches.append(jax.device_get(
          generate(policy.params, *asked, rng, row_ids_B=ids_B)))
    _, places = np.unique(texts_NxB, return_index=True)
    done = jax.tree.map(lambda *x: np.concatenate(x)[places], *batches)
    return [
        prompts[i // layout.num_samples] + tokenizer.decode(
            tokens[:length - is_finished].tolist())
        for i, (tokens, length, is_finished) in enumerate(
            zip(done.tokens, done.lengths, done.is_finished))], done

  def _details(self, policy, problems, texts, done, claims) -> dict:
    grid = lambda some: base.objects([
        some[i:i + self._settings.num_samples]
        for i in range(0, len(some), self._settings.num_samples)])
    kept = dict(searched=grid(self._searched(policy, claims, done)))
    if format_lib.has_drafts(policy.style):
      kept |= dict(attempts=grid([*map(drafts.num_attempts, texts)]))
    if self._keeps_tokens:
      kept |= dict(tokens=grid([
          tokens[:length].tolist()
          for tokens, length in zip(done.tokens, done.lengths, strict=True)]))
    if self._settings.temperature > 0:
      return kept
    told = [
        self.detail(policy.style, problem, text, bool(is_finished), claim)
        for problem, text, is_finished, claim in zip(
            problems, texts, done.is_finished, claims, strict=True)]
    return {
        name: base.objects([[row.get(name)] for row in told])
        for name in dict.fromkeys(name for row in told for name in row)
    } | kept

  def detail(
      self, style: str, problem: Problem, text: str, is_finished: bool,
      claim: judge_lib.Claim,
  ) -> dict[str, Any]:
    """Returns what the row of a text says besides."""
    answer, verdict = claim
    more = {} if self._task.measure is None else dict(
        self._task.measure(problem, text, answer, verdict))
    error = more.pop('error', analysis.WRONG_ANSWER)
    error = analysis.NO_ERROR if verdict.is_correct else error
    told = analysis.analyze(problem, text, style, is_finished, lambda _: error)
    return dict(
        text=text, reason=verdict.reason, error=told.primary_error,
        nodes=told.nodes, backtracks=told.backtracks, **more)


def _counted(style, prompts, texts, grid) -> dict[str, np.ndarray]:
  """How texts behind prompts reason, where that can be counted."""
  if style not in behaviours.STYLES:
    return {}
  return dict(behaviours=grid([
      dataclasses.asdict(behaviours.of_text(text[len(prompt):]))
      for prompt, text in zip(prompts, texts, strict=True)], object))


def jit_generate(
    model: model_config.ModelConfig, mesh: jax.sharding.Mesh, *,
    max_new_tokens: int, sampling: decode.Sampling,
    eos_ids: tuple[int, ...], pad_id: int,
) -> Callable[..., decode.Generation]:
  """Jits `decode.generate` for a mesh; every device gets the whole result.

  Call it as (params, prompts_RxP, prompt_lengths_R, rng, row_ids_B=...).
  """
  return jax.jit(
      functools.partial(
          decode.generate, model, max_new_tokens=max_new_tokens,
          sampling=sampling, eos_ids=eos_ids, pad_id=pad_id),
      out_shardings=sharding.replicated(mesh))
