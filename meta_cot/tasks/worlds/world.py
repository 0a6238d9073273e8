# SPDX-License-Identifier: Apache-2.0
"""What tasks with something hidden have in common.

A world says what `World` leaves open, in texts of a few symbols; what compiled
programs, the teacher and the optimum need follows from that. Axes: A attempts,
L symbols of the longest, F symbols said.
"""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import random
from typing import Any, ClassVar

import numpy as np

from meta_cot.problem import Problem, Verdict
from meta_cot.settings import config as config_lib
from meta_cot.tasks import base
from meta_cot.traces import record as record_lib

SPLITS = (base.TRAIN, base.VALIDATION, 'test')
READER = 'reader'  # the teacher's strategy: it uses what it has read

Heard = Sequence[tuple[str, str]]  # earlier attempts, what was said of each


@dataclasses.dataclass(frozen=True)
class Settings:
  """Which problems there are; a world adds its own."""

  num_attempts: int = config_lib.setting(low=1)  # K, of a demonstration
  num_train: int = config_lib.setting(low=1)
  num_heldout: int = config_lib.setting(low=1)  # in validation and in test


@dataclasses.dataclass(frozen=True)
class World:
  """A task; `Problem.answer` is what is hidden.

  The hidden variable follows from the seed, the split and the index of a
  problem. A question may come again with something else that is hidden.
  """

  settings: Any  # a `Settings`; None: there are no problems
  seed: int = 0
  name: ClassVar[str]  # begins the ids of problems
  symbols: ClassVar[str]  # a character each, of attempts and of what is said
  length: ClassVar[int] = 1  # F, symbols said at most
  splits: ClassVar[tuple[str, ...]] = SPLITS
  states: ClassVar[None] = None
  in_graph: ClassVar[None] = None
  measure: ClassVar[None] = None
  oracle: ClassVar[None] = None

  # What a world says.

  def draw(
      self, split: str, index: int, rng: random.Random) -> tuple[str, str]:
    """Draws a question and what is hidden."""
    raise NotImplementedError

  def prior(self, question: str) -> Mapping[str, float]:
    """Returns what may be hidden, and how likely it is."""
    raise NotImplementedError

  def attempts(self, question: str) -> Sequence[str]:
    """Lists attempts such that any other is as good as one of them or ''."""
    raise NotImplementedError

  def say(self, question: str, hidden: str, attempt: str) -> tuple[str, bool]:
    """Returns what is said of an attempt, any text, and whether it is right."""
    raise NotImplementedError

  def act(
      self, question: str, heard: Heard, is_last: bool, rng: random.Random
  ) -> str:
    """Makes the next attempt of a demonstration, by what was heard alone."""
    raise NotImplementedError

  def difficulty(self, question: str) -> int | None:
    """Returns a number by which reports split questions; None: no split."""
    del question

  # What follows from it.

  @property
  def teacher(self) -> 'Teacher':
    """Demonstrations that use feedback."""
    return Teacher(self)

  @property
  def feedback(self) -> 'Feedback':
    """What is said, on the host and in compiled programs."""
    return Feedback(self)

  def size(self, split: str) -> int:
    """Returns the number of problems of a split."""
    settings = self._settings()
    if split not in SPLITS:
      raise ValueError(
          f'split: got {split!r}; must be one of {", ".join(SPLITS)}.')
    return settings.num_train if split == base.TRAIN else settings.num_heldout

  def problems(self, split: str, start: int, stop: int) -> Iterator[Problem]:
    """Returns problems `start` to `stop` (exclusive, at most the size)."""
    size = self.size(split)
    if start < 0:
      raise ValueError(f'start: got {start}; must be at least 0.')
    return (
        self._problem(split, index) for index in range(start, min(stop, size)))

  def verify(self, problem: Problem, answer: str) -> Verdict:
    """Judges `answer`: right is what `say` says is right."""
    is_right = bool(answer) and self.say(
        problem.question, problem.answer, answer)[1]
    return Verdict(is_right, 'right' if is_right else 'not what is hidden')

  def vary(self, problem: Problem, rng: np.random.Generator) -> Problem:
    """Returns the same question."""
    del rng
    return problem

  def beliefs(self, question: str, heard: Heard) -> dict[str, float]:
    """Returns what may be hidden after what was heard, not normalised."""
    return {
        hidden: probability
        for hidden, probability in self.prior(question).items()
        if all(self.say(question, hidden, attempt)[0] == said
               for attempt, said in heard)}

  def guess(self, question: str, heard: Heard, rng: random.Random) -> str:
    """Draws one of what is most likely hidden after what was heard."""
    beliefs = self.beliefs(question, heard)
    most = max(beliefs.values())
    return rng.choice([h for h, p in beliefs.items() if p > most - 1e-9])

  def arrays(self, problem: Problem) -> dict[str, np.ndarray]:
    """Returns a table of what is said of all attempts, its last row of others.

    int32 `attempts` [A, L], -1 behind each; int32 `lengths` [A]; int32 `said`
    [A + 1, F] and `numbers` [A + 1]; float32 `rewards` [A + 1].
    """
    attempts = self.attempts(problem.question)
    rows = [
        self.say(problem.question, problem.answer, attempt)
        for attempt in (*attempts, '')]
    return dict(
        attempts=self.encode(attempts, max(map(len, attempts))),
        lengths=np.array([len(x) for x in attempts], np.int32),
        said=self.encode([said for said, _ in rows], self.length, fill=0),
        numbers=np.array([len(said) for said, _ in rows], np.int32),
        rewards=np.array([is_right for _, is_right in rows], np.float32))

  def respond(
      self, hidden: Mapping[str, Any], symbols_SxT: Any, length_S: Any
  ) -> tuple[Any, Any, Any]:
    """See `base.InGraphFeedback`; by the table of `arrays`."""
    # Needs JAX, without which the rest of a task starts at once.
    from meta_cot.tasks.worlds import in_graph
    return in_graph.look_up(hidden, symbols_SxT, length_S)

  def encode(
      self, texts: Sequence[str], width: int, fill: int = -1) -> np.ndarray:
    """Writes texts as numbers of symbols, [len(texts), width] int32."""
    rows = np.full((len(texts), width), fill, np.int32)
    for row, text in zip(rows, texts):
      row[:len(text)] = [self.symbols.index(c) for c in text]
    return rows

  def _problem(self, split: str, index: int) -> Problem:
    rng = random.Random(f'{self.name}/{self.seed}/{split}/{index}')
    question, hidden = self.draw(split, index, rng)
    data, difficulty = dict(hidden=hidden), self.difficulty(question)
    if difficulty is not None:
      data['difficulty'] = difficulty
    return Problem(f'{self.name}-{split}-{index}', question, hidden, data)

  def _settings(self) -> Settings:
    if self.settings is None:
      raise config_lib.UserError(
          f'task {self.name}: made without settings, it has no problems.')
    return self.settings


@dataclasses.dataclass(frozen=True)
class Feedback:
  """What a world says; a `base.InGraphFeedback`."""

  world: World

  @property
  def symbols(self) -> tuple[str, ...]:
    return tuple(self.world.symbols)

  @property
  def length(self) -> int:
    return self.world.length

  def __call__(self, problem: Problem, answer: str, verdict: Verdict) -> str:
    """Says it on the host."""
    del verdict
    return self.world.say(problem.question, problem.answer, answer)[0]

  def hidden(self, problem: Problem) -> dict[str, np.ndarray]:
    """Returns the world's arrays of a problem."""
    return self.world.arrays(problem)

  def respond(
      self, hidden: Mapping[str, Any], symbols: Any, length: Any
  ) -> tuple[Any, Any, Any]:
    """Says it in a compiled program."""
    return self.world.respond(hidden, symbols, length)


@dataclasses.dataclass(frozen=True)
class Teacher:
  """Attempts of a player that reads what was said of those before."""

  world: World
  strategies: ClassVar[tuple[str, ...]] = (READER,)

  def search(
      self, problem: Problem, strategy: str, seed: int
  ) -> record_lib.TraceRecord:
    """Plays `num_attempts` attempts, for arm `episodes`.

    Each is a child of the root: its step the attempt, its state what was said
    of it, nothing of the last. The solution is the first right one.
    """
    if strategy not in self.strategies:
      raise ValueError(
          f'strategy: got {strategy!r}; must be one of '
          f'{", ".join(self.strategies)}.')
    world, question = self.world, problem.question
    rng, heard = random.Random(f'{seed}/{problem.id}'), []
    nodes, number = [record_lib.Node(-1, '', question, order=0)], (
        world.settings.num_attempts)
    for k in range(1, number + 1):
      attempt = world.act(question, tuple(heard), k == number, rng)
      said, is_right = world.say(question, problem.answer, attempt)
      heard.append((attempt, said))
      nodes.append(record_lib.Node(
          parent=0, step=attempt, state=said if k < number else '',
          is_terminal=True, is_correct=is_right))
    right = [i for i, node in enumerate(nodes) if node.is_correct]
    return record_lib.TraceRecord(
        problem=problem, strategy=strategy, arguments={}, seed=seed,
        model='symbolic', nodes=tuple(nodes), traversal='expansion',
        solution=(0, right[0]) if right else ())
