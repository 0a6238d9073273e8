# SPDX-License-Identifier: Apache-2.0
"""A folder of records as the TFDS dataset `meta_cot_records`.

  from data_pipelines.tfds import meta_cot_records
  meta_cot_records.builder('runs/quickstart/traces').download_and_prepare()
  tfds.data_source('meta_cot_records/quickstart_traces', split='train')

or, with TFDS's own command, which itself needs TensorFlow,

  tfds build data_pipelines/tfds/meta_cot_records.py \\
      --config='{"name": "quickstart_traces", "folder": "RUN/traces"}'

Splits are those of the folder's manifest that have records, in its order.
Files are ArrayRecord: neither writing nor `tfds.data_source` needs TensorFlow.
What is nested without a fixed shape (`data`, `arguments`, `nodes`) is text in
JSON.
"""

from collections.abc import Iterator, Mapping
import dataclasses
import json
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from data_pipelines import store
from meta_cot import problem as problem_lib
from meta_cot.runtime import files
from meta_cot.settings import config as config_lib
from meta_cot.traces import record as record_lib

_FORMAT = 'array_record'


@dataclasses.dataclass(kw_only=True)
class RecordsConfig(tfds.core.BuilderConfig):
  """Which records: `name` is that of the dataset's config."""

  folder: str = ''  # of a stage, local or in a bucket


class MetaCotRecords(tfds.core.GeneratorBasedBuilder):
  """The dataset of a folder."""

  VERSION = tfds.core.Version('1.0.0')
  # TFDS takes other configs only where there is one.
  BUILDER_CONFIGS = [RecordsConfig(
      name='none', description='No records; name a folder in a config.')]

  def __init__(self, *, file_format: str | None = None, **settings: Any):
    """Makes the builder; see `tfds.core.DatasetBuilder`."""
    super().__init__(file_format=file_format or _FORMAT, **settings)

  def _info(self) -> tfds.core.DatasetInfo:
    return self.dataset_info_from_configs(
        description='Records of meta_cot: problems, or searches over them.',
        features=tfds.features.FeaturesDict(_FEATURES[self._manifest.kind]),
        disable_shuffling=True)

  def _split_generators(self, dl_manager) -> Mapping[str, Iterator]:
    del dl_manager
    return {
        name: self._generate_examples(name)
        for name, split in self._manifest.splits.items() if split.num_records}

  def _generate_examples(self, split: str) -> Iterator[tuple[int, dict]]:
    source = store.read(self.builder_config.folder, split)
    for i in range(len(source)):
      yield i, to_example(source[i])

  @property
  def _manifest(self) -> store.Manifest:
    folder = self.builder_config.folder
    if not folder:
      raise config_lib.UserError(
          "meta_cot_records: no folder; name one, such as --config='"
          '{"name": "quickstart_traces", "folder": "runs/quickstart/traces"}\'')
    return store.read_manifest(folder)


def builder(
    folder: files.Path, *, name: str | None = None,
    data_dir: str | None = None) -> MetaCotRecords:
  """Makes the builder of a folder of records.

  Args:
    folder: of a stage, local or in a bucket.
    name: of the config; by default of the run and the stage, `tiny_traces`.
    data_dir: where datasets are; by default where TFDS has them.

  Raises:
    UserError: the folder has no manifest, or a damaged one.
  """
  folder = str(files.path(folder))
  store.read_manifest(folder)  # its errors as they are
  name = name or '_'.join(folder.rstrip('/').split('/')[-2:])
  return MetaCotRecords(
      config=RecordsConfig(name=name, folder=folder), data_dir=data_dir)


def to_example(record: store.Record) -> dict[str, Any]:
  """Writes a record as the features have it; `from_example` gives it back."""
  raw = json.loads(_module(record).to_json(record))
  if isinstance(record, problem_lib.Problem):
    steps = record.data.get('steps')  # of problems in words
    return _written(raw) | dict(
        solution='\n'.join(steps) if isinstance(steps, list) else '')
  return _written(raw) | dict(problem=_written(raw['problem']))


def from_example(example: Mapping[str, Any]) -> store.Record:
  """Reads a record of `tfds.data_source`, or what `to_example` has made.

  Raises:
    ValueError: none of these, or of another schema version.
  """
  raw = _read(example)
  if 'problem' in raw:
    return record_lib.from_json(json.dumps(raw))
  del raw['solution']
  return problem_lib.from_json(json.dumps(raw))


def _module(record: store.Record):
  is_problem = isinstance(record, problem_lib.Problem)
  return store.KINDS[
      problem_lib.KIND if is_problem else record_lib.KIND]


def _written(raw: Mapping[str, Any]) -> dict[str, Any]:
  return {key: json.dumps(value) if key in _IN_JSON else value
          for key, value in raw.items()}


def _read(value: Any, key: str = '') -> Any:
  """Plain values of what TFDS reads: bytes, NumPy scalars and arrays."""
  if isinstance(value, Mapping):
    return {name: _read(x, name) for name, x in value.items()}
  if isinstance(value, (list, tuple)):
    return [*map(_read, value)]
  if isinstance(value, bytes):
    value = value.decode()
  if isinstance(value, (np.ndarray, np.generic)):
    return value.tolist()
  return json.loads(value) if key in _IN_JSON else value


_IN_JSON = ('data', 'arguments', 'nodes')
_text = tfds.features.Text
_PROBLEM = {key: _text() for key in ('id', 'question', 'answer', 'data')}
_FEATURES = {
    # `solution`: lines of a problem in words, as task `math` reads them; or ''.
    problem_lib.KIND: _PROBLEM | dict(solution=_text()),
    record_lib.KIND: dict(
        problem=_PROBLEM, nodes=_text(), arguments=_text(), strategy=_text(),
        model=_text(), traversal=_text(),
        seed=tfds.features.Scalar(np.int64),
        schema=tfds.features.Scalar(np.int64),
        is_exhausted=tfds.features.Scalar(np.bool_),
        solution=tfds.features.Sequence(tfds.features.Scalar(np.int64))),
}
