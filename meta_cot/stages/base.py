# SPDX-License-Identifier: Apache-2.0
"""What a stage is, and what the stages of a run share.

A stage is a named group of settings with a kind. It reads what other stages
left, writes its own folder, and can be killed and rerun: finished pieces are
kept, the rest continues to the same bits.
"""

from collections.abc import Callable, Iterable, Mapping
import dataclasses
import functools
from typing import Any

from etils import epath
import jax

from data_pipelines import store
from data_pipelines import tokenizers
from meta_cot import program
from meta_cot import sharding
from meta_cot import tasks
from meta_cot import traces
from meta_cot.model import config as model_config
from meta_cot.problem import Problem
from meta_cot.runtime import files
from meta_cot.settings import config as config_lib
from meta_cot.solvers import vocabulary
from meta_cot.training import part as part_lib
from meta_cot.training import policy as policy_lib

_NUM_FIRST = 64  # problems
_DELIMITER_ID = 3  # of a placeholder's searches


@dataclasses.dataclass(frozen=True)
class Shared:
  """Settings that belong to no stage."""

  seed: int  # of everything
  mesh: sharding.MeshConfig
  task_kind: str
  task_settings: Any  # of the task's module
  model: model_config.ModelConfig  # of policies that start from nothing
  style: str  # of the texts of policies

  @functools.cached_property
  def task(self) -> tasks.Task:
    return tasks.make(self.task_kind, self.task_settings, self.seed)

  def bound(self) -> dict[str, Any]:
    """Returns what results may depend on, by the names of the config."""
    return dict(
        seed=self.seed, style=self.style, model=config_lib.bound(self.model),
        task=dict(
            kind=tasks.name_of(self.task_kind),
            **config_lib.bound(self.task_settings)))


@dataclasses.dataclass(frozen=True)
class Planned:
  """A policy that may not be there yet."""

  model: model_config.ModelConfig
  style: str
  tokenizer: tokenizers.Tokenizer  # a placeholder of the one to come
  is_there: bool = False

  @classmethod
  def of(cls, policy: policy_lib.Policy) -> 'Planned':
    """Describes a policy that is there."""
    return cls(policy.model, policy.style, policy.tokenizer(), is_there=True)

  def words(self, step: str) -> vocabulary.Vocabulary:
    """Makes those of a search, as many as there will be.

    Raises:
      ValueError: the policy is there, and no token ends a step.
    """
    tokenizer, size = self.tokenizer, self.model.vocab_size
    if self.is_there:
      return vocabulary.of(tokenizer, size, self.style, step)
    return vocabulary.Vocabulary(
        tokenizer.pad_id, tokenizer.eos_ids, delimiter_ids=(_DELIMITER_ID,),
        texts=tuple(map(str, range(size))),
        has_opening=vocabulary.has_opening(self.style, step))


@dataclasses.dataclass(frozen=True)
class Context:
  """What a stage works with besides its own settings."""

  shared: Shared
  groups: Mapping[str, 'Group']
  mesh: jax.sharding.Mesh | None = None
  workdir: epath.Path | None = None  # None: nothing runs

  @property
  def seed(self) -> int:
    return self.shared.seed

  @property
  def task(self) -> tasks.Task:
    return self.shared.task

  def parts(self, references: Iterable[str]) -> tuple[str, ...]:
    """Lists the references; for that to a whole stage all that it leaves."""
    parts = []
    for reference in references:
      group = self.groups.get(reference)
      leaves = group.stage.leaves(group.settings) if group else ()
      parts += [f'{reference}/{part}' for part in leaves] or [reference]
    return tuple(parts)

  @functools.cached_property
  def first_problems(self) -> tuple[Problem, ...]:
    """The first problems of every split, for shapes, before any are stored.

    Raises:
      UserError: the style cannot write a question, or there is no problem.
    """
    problems = tuple(
        problem for split in self.task.splits
        for problem in self.task.problems(split, 0, _NUM_FIRST))
    if not problems:
      raise config_lib.ConfigError(
          'config.task: no split has a problem; change its settings.')
    for problem in problems:
      self.prompt(problem, self.shared.style)
    return problems

  def prompt(self, problem: Problem, style: str) -> str:
    """Writes a question; a UserError says that the style cannot."""
    try:
      return traces.prompt(problem, style=style)
    except ValueError as e:
      raise self.unwritten('question', problem, f'in style {style!r}: {e}'
                           ) from e

  def unwritten(
      self, what: str, problem: Problem, words: str) -> config_lib.UserError:
    """Makes the error about a text of a problem that cannot be written."""
    return config_lib.UserError(
        f'task {tasks.name_of(self.shared.task_kind)}: the {what} of problem '
        f'{problem.id!r} cannot be written {words}')

  def check_encoded(
      self, tokenizer: tokenizers.Tokenizer, what: str, problem: Problem,
      text: str) -> None:
    """Raises a UserError where a tokenizer loses some of a problem's text."""
    if tokenizer.decode(tokenizer.encode(text)) == text:
      return
    lost = [c for c in text if tokenizer.decode(tokenizer.encode(c)) != c]
    raise self.unwritten(
        what, problem, f'by the tokenizer, which has no token for '
        f'{"".join(lost[:1]) or text!r:.80}; use a larger vocab_size, or let '
        'the first training problems have all characters.')

  def check_prompts(
      self, policy: policy_lib.Policy, problems: Iterable[Problem]) -> None:
    """Raises a UserError for a question that a policy cannot be asked."""
    tokenizer = policy.tokenizer()
    for problem in problems:
      self.check_encoded(
          tokenizer, 'question', problem, self.prompt(problem, policy.style))

  def folder(self, reference: str) -> epath.Path:
    """The folder that a reference names: of this workdir, or anywhere."""
    if reference.startswith('/') or files.is_remote(reference):
      return files.path(reference)
    return self.workdir / reference

  def base(
      self, directory: epath.Path, start: str | None, part: part_lib.Part
  ) -> policy_lib.Base | None:
    """Says where a policy of the workdir has what is not trained of it.

    Raises:
      UserError: the start has no checkpoint.
    """
    if not part.has_base:
      return None
    policy = self.policy(start)
    if not policy.steps():
      policy.params(self.mesh)  # says what is missing
    if not (start.startswith('/') or files.is_remote(start)):
      start = '../' * len(directory.relative_to(self.workdir).parts) + start
    return policy_lib.Base(start, policy.steps()[-1], part)

  def policy(self, reference: str) -> policy_lib.Policy:
    """Reads what the policy folder behind a reference says of itself.

    Raises:
      UserError: there is none.
    """
    return policy_lib.read(self.folder(reference))

  def planned(self, reference: str) -> Planned:
    """Describes the policy behind a reference, trained or not.

    Raises:
      UserError: there is none, or it is a stage that leaves no policies.
    """
    group = self.groups.get(reference.partition('/')[0])
    if group is None:
      there = self.policy(reference)
      return Planned(there.model, there.style, there.tokenizer())
    if not group.stage.leaves(group.settings):
      raise config_lib.ConfigError(
          f'stage {group.name} leaves no policies.')
    if group.settings.start is not None:
      return self.planned(group.settings.start)
    source = self.groups.get(group.settings.tokenizer)
    tokenizer = (
        tokenizers.load(self.folder(group.settings.tokenizer))
        if source is None else
        source.settings.vocabulary.placeholder())
    style = group.settings.style or self.shared.style
    return Planned(self.shared.model, style, tokenizer)

  def problems(
      self, reference: str, split: str, limit: int | None = None
  ) -> list[Problem]:
    """Reads the first problems of a split, all without a limit.

    Raises:
      UserError: they are not there, or the split is empty.
    """
    folder = self.folder(reference)
    source = store.read(folder, split)
    if not len(source):
      raise config_lib.UserError(
          f'{folder}: the split {split} is empty; change config.task.')
    return [source[i] for i in range(len(source))[:limit]]


Programs = Mapping[str, Callable[[], program.Program]]


@dataclasses.dataclass(frozen=True)
class Stage:
  """A kind of stage.

  Attributes:
    Settings: its group. Fields marked `is_free` may change in a workdir.
    run: does what is missing in the stage's folder. Raises UserError, and
      Interrupted after a signal.
    uses: keys of `Shared.bound` that its results depend on.
    reads: settings -> references to what it reads, `STAGE`, `STAGE/PART` or
      the path of a folder.
    grown: settings -> those that may grow in a workdir, by name: the stage goes
      on, and what stands on it runs again.
    leaves: settings -> parts of its folder that others may read; () for one
      that is read whole.
    check: (context, settings, name) raises a ConfigError for what `run` would
      refuse, as far as settings tell; the context has no mesh and no workdir.
    check_devices: the same, where the work does not divide over the context's
      mesh.
    check_folder: (settings, directory) raises a UserError where what is there
      cannot be gone on with.
    num_bytes: (shared, settings) -> what its checkpoints need on disk, roughly.
    is_whole: whether nothing is missing in the folder of a finished stage.
    programs: name -> what is compiled, made by the functions that `run` calls.
  """

  Settings: type
  run: Callable[[Context, Any, epath.Path], None]
  uses: tuple[str, ...] = ('seed', 'task')
  reads: Callable[[Any], tuple[str, ...]] = lambda settings: ()
  grown: Callable[[Any], dict[str, Any]] = lambda settings: {}
  leaves: Callable[[Any], tuple[str, ...]] = lambda settings: ()
  check: Callable[[Context, Any, str], Any] = lambda *_: None
  check_devices: Callable[[Context, Any, str], Any] = lambda *_: None
  check_folder: Callable[[Any, epath.Path], Any] = lambda *_: None
  num_bytes: Callable[[Shared, Any], int] = lambda shared, settings: 0
  is_whole: Callable[[Context, Any, epath.Path], bool] = lambda *_: True
  programs: Callable[[Context, Any], Programs] = lambda *_: {}


@dataclasses.dataclass(frozen=True)
class Group:
  """A named group of settings with a kind."""

  name: str
  stage: Stage
  settings: Any  # of `stage.Settings`


def arguments(context: Context, settings: Any) -> dict[str, Any]:
  """Names what determines the records that a stage makes; JSON values."""
  shared = context.shared.bound()
  return dict(
      seed=shared['seed'], task=shared['task'], **config_lib.bound(settings))


def wrong(name: str, field: str, message: str) -> config_lib.ConfigError:
  """Makes the error about one setting of a stage."""
  return config_lib.ConfigError(f'config.{name}.{field}: {message}')
