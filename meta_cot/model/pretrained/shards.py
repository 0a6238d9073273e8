# SPDX-License-Identifier: Apache-2.0
"""Arrays of a checkpoint folder in safetensors, read lazily and written.

Reading opens the files and copies one array (of one layer) at a time into the
shards that this host holds of the target sharding.
"""

from collections.abc import Iterator, Mapping
import contextlib
import json
from typing import Any, Protocol

from etils import epath
import jax
import jax.numpy as jnp
import numpy as np

from meta_cot.model import config as model_config
from meta_cot.model.pretrained import names
from meta_cot.runtime import files
from meta_cot.settings import config as config_lib
from meta_cot.types import Params

SINGLE, INDEX = 'model.safetensors', 'model.safetensors.index.json'
_MAX_BYTES = 5 * 10**9  # of a file that is written
_TIED = 'lm_head.weight'  # may stand in a file beside what it is tied to
_EMBEDDING = 'model.embed_tokens.weight'
_WITHOUT_EFFECT = ('rotary_emb.inv_freq',)


class Source(Protocol):
  """Arrays by their names."""

  shapes: Mapping[str, tuple[int, ...]]

  def read(self, name: str) -> np.ndarray:
    """Reads one array."""


class Arrays:
  """A `Source` of arrays that are there."""

  def __init__(self, arrays: Mapping[str, np.ndarray]):
    """Wraps arrays."""
    self._arrays = arrays
    self.shapes = {name: x.shape for name, x in arrays.items()}

  def read(self, name: str) -> np.ndarray:
    """Returns an array."""
    return self._arrays[name]


class _Files:
  """A `Source` of open files."""

  def __init__(self, opened: list[Any]):
    self._file_of = {name: file for file in opened for name in file.keys()}
    self.shapes = {
        name: tuple(file.get_slice(name).get_shape())
        for name, file in self._file_of.items()}

  def read(self, name: str) -> np.ndarray:
    return self._file_of[name].get_tensor(name)


@contextlib.contextmanager
def opened(folder: epath.Path) -> Iterator[Source]:
  """Opens the files of a checkpoint's folder; of a bucket's, copies of them.

  Copies lie on this host's disk until they are closed.

  Raises:
    UserError: files are missing or damaged; names them.
  """
  try:
    import safetensors
  except ImportError as e:
    raise config_lib.UserError(
        f"{folder}: needs the package safetensors; pip install 'meta-cot[hf]'."
    ) from e
  found = [SINGLE]
  if (folder / INDEX).is_file():
    found = sorted(set(files.read_json(
        folder / INDEX, weight_map=dict)['weight_map'].values()))
  with contextlib.ExitStack() as stack:
    handles = []
    for name in found:
      if not (folder / name).is_file():
        raise config_lib.UserError(
            f'{folder / name}: no such file; the folder must have {SINGLE}, or '
            f'{INDEX} and the files that it names.')
      try:
        handles.append(stack.enter_context(safetensors.safe_open(
            _local(folder / name, stack), 'numpy')))
      except (safetensors.SafetensorError, OSError) as e:
        raise config_lib.UserError(
            f'{folder / name}: no safetensors ({" ".join(str(e).split())}); '
            'download the file again.') from e
    yield _Files(handles)


def _local(path: epath.Path, stack: contextlib.ExitStack) -> files.Path:
  """A local file: itself, or a copy of one in a bucket while it is needed."""
  if not files.is_remote(path):
    return path
  copy = files.scratch(path)
  stack.callback(copy.unlink, missing_ok=True)
  path.copy(copy, overwrite=True)
  return copy


def is_tied(source: Source) -> bool:
  """Whether what reads out is what embeds, or is not in the files at all."""
  return _TIED not in source.shapes or (
      source.shapes[_TIED] == source.shapes.get(_EMBEDDING) and np.array_equal(
          source.read(_TIED), source.read(_EMBEDDING)))


def load(
    source: Source, model: model_config.ModelConfig, wanted: Params
) -> Params:
  """Reads the parameters of a model into their shardings.

  The value head is not in a checkpoint: it begins at zero.

  Args:
    source: arrays by their names there.
    model: that the arrays are of.
    wanted: ShapeDtypeStructs with shardings.

  Raises:
    UserError: an array is missing, of another shape, or one too many.
  """
  flat, structure = jax.tree_util.tree_flatten_with_path(wanted)
  leaves = {tuple(key.key for key in path): leaf for path, leaf in flat}
  entries = {entry.ours: entry for entry in names.entries(model)}
  _check(source, model, entries, leaves)
  return jax.tree.unflatten(structure, [
      _array(source, entries.get(path), leaf)
      for path, leaf in leaves.items()])


def _check(source, model, entries, leaves) -> None:
  known = {_TIED} if model.tie_embeddings else set()
  for path, entry in entries.items():
    shape = leaves[path].shape
    for layer in range(model.num_layers if '{}' in entry.theirs else 1):
      name = entry.theirs.format(layer)
      known.add(name)
      ours = shape[1:] if '{}' in entry.theirs else shape
      theirs = names.to_theirs(
          entry, np.broadcast_to(np.zeros((), np.int8), ours)).shape
      if source.shapes.get(name) != theirs:
        raise config_lib.UserError(
            f'{name}: got {source.shapes.get(name, "no such array")}; must be '
            f'of shape {theirs}, as config.json says.')
  for name in source.shapes:
    if name not in known and not name.endswith(_WITHOUT_EFFECT):
      raise config_lib.UserError(
          f'{name}: this array has no place in such a model.')


def _array(source, entry: names.Entry | None, leaf) -> jax.Array:
  """Makes one array of ours, shard by shard."""
  if entry is None:
    return jax.make_array_from_callback(
        leaf.shape, leaf.sharding,
        lambda index: np.zeros(_shape(leaf.shape, index), leaf.dtype))

  def shard(index):
    if '{}' not in entry.theirs:
      return names.to_ours(
          entry, source.read(entry.theirs), leaf.shape)[index].astype(
              leaf.dtype)
    made = np.empty(_shape(leaf.shape, index), leaf.dtype)
    for i, layer in enumerate(range(*index[0].indices(leaf.shape[0]))):
      made[i] = names.to_ours(
          entry, source.read(entry.theirs.format(layer)),
          leaf.shape[1:])[index[1:]]
    return made

  return jax.make_array_from_callback(leaf.shape, leaf.sharding, shard)


def _shape(shape, index) -> tuple[int, ...]:
  return tuple(len(range(*i.indices(n))) for i, n in zip(index, shape))


def arrays(
    model: model_config.ModelConfig, params: Params, dtype: str
) -> Iterator[tuple[str, np.ndarray]]:
  """Yields the arrays of a model by their names there, one at a time."""
  for entry in names.entries(model):
    ours = params
    for key in entry.ours:
      ours = ours[key]
    if '{}' not in entry.theirs:
      yield entry.theirs, names.to_theirs(entry, np.asarray(ours)).astype(
          jnp.dtype(dtype))
      continue
    for layer in range(model.num_layers):
      yield entry.theirs.format(layer), names.to_theirs(
          entry, np.asarray(ours[layer])).astype(jnp.dtype(dtype))


def write(
    folder: epath.Path, found: Iterator[tuple[str, np.ndarray]],
    max_bytes: int = _MAX_BYTES,
) -> None:
  """Writes arrays into files of at most `max_bytes`, and their index.

  The index, or the only file, comes last.
  """
  from safetensors import numpy as safetensors
  pieces, sizes = [{}], [0]
  for name, array in found:
    if pieces[-1] and sizes[-1] + array.nbytes > max_bytes:
      _write_piece(safetensors, folder, len(pieces), pieces[-1])
      pieces[-1] = dict.fromkeys(pieces[-1])  # names only
      pieces.append({})
      sizes.append(0)
    pieces[-1][name] = np.ascontiguousarray(array)
    sizes[-1] += array.nbytes
  if len(pieces) == 1:
    files.write_atomic(
        folder / SINGLE, safetensors.save(pieces[0], {'format': 'pt'}))
    return
  _write_piece(safetensors, folder, len(pieces), pieces[-1])
  files.write_atomic(folder / INDEX, json.dumps(dict(
      metadata=dict(total_size=sum(sizes)), weight_map={
          name: _piece_name(i) for i, piece in enumerate(pieces, 1)
          for name in piece}), indent=1))


def _write_piece(safetensors, folder, number: int, piece) -> None:
  files.write_atomic(
      folder / _piece_name(number), safetensors.save(piece, {'format': 'pt'}))


def _piece_name(number: int) -> str:
  return f'model-{number:05d}.safetensors'
