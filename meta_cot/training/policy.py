# SPDX-License-Identifier: Apache-2.0
"""A policy folder: a model that says of itself what it is.

  policy.json     schema, model settings, text style, tokenizer fingerprint
  tokenizer/      the tokenizer's files
  checkpoints/    one folder a step; parameters are read without an optimiser

Where only a part of a policy is trained, such as an adapter, policy.json names
the folder that the rest is read from, and checkpoints have that part alone.

Training writes it, an import writes it, and whatever samples, searches or goes
on training reads it.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any

from etils import epath
from flax.linen import meta
import jax
import orbax.checkpoint as ocp

from data_pipelines import tokenizers
from meta_cot import sharding
from meta_cot import types
from meta_cot.model import config as model_config
from meta_cot.runtime import files
from meta_cot.settings import config as config_lib
from meta_cot.traces import format as format_lib
from meta_cot.training import checkpoint
from meta_cot.training import integrity
from meta_cot.training import part as part_lib

SCHEMA = 1
NAME = 'policy.json'
ORIGINAL = 'original'  # files of a checkpoint that was imported


@dataclasses.dataclass(frozen=True)
class Base:
  """Where the parameters are of which a part was trained."""

  folder: str  # of a policy; one that begins with ../ is seen from this folder
  step: int
  part: part_lib.Part


def bound(base: Base | None) -> dict[str, Any]:
  """Returns what of a base a checkpoint may depend on besides settings."""
  return {} if base is None else dict(start_step=base.step)


@dataclasses.dataclass(frozen=True)
class Policy:
  """What a policy folder says of itself."""

  directory: epath.Path
  model: model_config.ModelConfig
  style: str  # of its texts
  about: Mapping[str, Any]  # how it came to be, JSON values
  fingerprint: str  # of its tokenizer
  base: Base | None = None  # None: all parameters are in its checkpoints

  def steps(self) -> list[int]:
    """Saved steps, oldest first."""
    return integrity.steps(self.directory / 'checkpoints')

  def tokenizer(self) -> tokenizers.Tokenizer:
    """Loads the tokenizer.

    Raises:
      UserError: its files are missing, damaged or those of another one.
    """
    made = tokenizers.load(self.directory / 'tokenizer')
    if made.fingerprint != self.fingerprint:
      raise config_lib.UserError(
          f'{self.directory / "tokenizer"}: not the tokenizer that {NAME} '
          f'names, {self.fingerprint[:12]}; restore it from a copy.')
    return made

  def params(
      self, mesh: jax.sharding.Mesh, step: int | None = None
  ) -> types.Params:
    """Reads the parameters of a step, the newest by default.

    An adapter is merged into those of its base.

    Raises:
      UserError: nothing is saved, the step is damaged, or its arrays are not
        those of the model; or that is so of the base.
    """
    if self.base is None:
      return self._saved(mesh, part_lib.ALL, step)
    part = self.base.part
    start = read(_seen(self.directory, self.base.folder)).params(
        mesh, self.base.step)
    merge = jax.jit(
        part.merged, donate_argnums=0, out_shardings=jax.tree.map(
            lambda x: x.sharding, abstract(self.model, mesh)))
    return merge(start, self._saved(mesh, part, step))

  def _saved(
      self, mesh: jax.sharding.Mesh, part: part_lib.Part, step: int | None
  ) -> types.Params:
    """Reads what its own checkpoints have."""
    directory, steps = self.directory / 'checkpoints', self.steps()
    if not steps:
      raise config_lib.UserError(
          f'{directory}: no checkpoint; this policy is not trained yet: run '
          'its stage first.')
    step = steps[-1] if step is None else step
    checkpoint.check_whole(directory, step)
    wanted = dict(params=abstract(self.model, mesh, part))
    reader = ocp.PyTreeCheckpointHandler()
    state = directory / str(step) / 'state'
    checkpoint.check_arrays(
        dict(params=reader.metadata(state)['params']), wanted, step)
    return reader.restore(state, args=ocp.args.PyTreeRestore(
        item=wanted, partial_restore=True,
        restore_args=ocp.checkpoint_utils.construct_restore_args(
            wanted)))['params']


def abstract(
    model: model_config.ModelConfig, mesh: jax.sharding.Mesh,
    part: part_lib.Part = part_lib.ALL,
) -> types.Params:
  """Describes a model's parameters, or a part: ShapeDtypeStructs, sharded."""
  boxed = jax.eval_shape(
      lambda rng: part.init(model, rng),
      jax.eval_shape(lambda: jax.random.key(0)))
  return jax.tree.map(
      lambda x, s: x.update(sharding=s), meta.unbox(boxed),
      sharding.of_params(mesh, boxed))


def write(
    directory: epath.Path, model: model_config.ModelConfig,
    tokenizer: tokenizers.Tokenizer, style: str, about: Mapping[str, Any],
    base: Base | None = None, start: Policy | None = None,
) -> None:
  """Writes all of a policy folder but its checkpoints; one process does.

  What an import has left in the folder of the start is copied.

  `policy.json` comes last: a folder that has it has the tokenizer too.
  """
  tokenizer.save(directory / 'tokenizer')
  if start is not None:
    for path in files.matching(start.directory / ORIGINAL, '*'):
      files.write_atomic(directory / ORIGINAL / path.name, path.read_bytes())
  files.write_json(directory / NAME, dict(
      schema=SCHEMA, model=dataclasses.asdict(model), style=style,
      tokenizer=tokenizer.fingerprint, about=dict(about),
      **(dict(base=dataclasses.asdict(base)) if base else {})))


def read(directory: epath.Path) -> Policy:
  """Reads what a policy folder says of itself.

  Raises:
    UserError: no policy folder, or one of another schema; names the file.
  """
  path = directory / NAME
  if not path.is_file():
    raise config_lib.UserError(
        f'{path}: no such file; this is no policy folder, or its training has '
        'not begun: run its stage first.')
  if files.read_json(path, schema=int)['schema'] != SCHEMA:
    raise config_lib.UserError(
        f'{path}: schema {files.read_json(path)["schema"]}, this version reads '
        f'{SCHEMA}; train or import the policy again.')
  raw = files.read_json(path, model=dict, style=str, about=dict, tokenizer=str)
  if raw['style'] not in format_lib.STYLES:
    raise config_lib.UserError(
        f'{path}: style: got {raw["style"]!r}; '
        f'{config_lib.nearest(raw["style"], tuple(format_lib.STYLES))}.')
  model = config_lib.parse(
      model_config.ModelConfig, raw['model'], f'{path}: model')
  return Policy(
      directory, model, raw['style'], raw['about'], raw['tokenizer'],
      _base(path, raw['base']) if 'base' in raw else None)


def _base(path: epath.Path, raw: Any) -> Base:
  """Reads what policy.json says of the base; a UserError names what is wrong.
  """
  if not isinstance(raw, Mapping) or (
      not isinstance(raw.get('folder'), str)
      or not isinstance(raw.get('step'), int)):
    raise config_lib.UserError(
        f'{path}: base: got {raw!r}; must have folder and step.')
  return Base(raw['folder'], raw['step'], config_lib.parse(
      part_lib.Part, raw.get('part', {}), f'{path}: base.part'))


def _seen(directory: epath.Path, folder: str) -> epath.Path:
  """The folder that a policy names as its base."""
  if not folder.startswith('../'):
    return files.path(folder)
  while folder.startswith('../'):
    directory, folder = directory.parent, folder.removeprefix('../')
  return directory / folder
