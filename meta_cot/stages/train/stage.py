# SPDX-License-Identifier: Apache-2.0
"""Stage `train`: a policy learns from records, one run per arm.

Leaves a policy folder for each arm, `<arm>/`: policy.json, tokenizer,
checkpoints, metrics.jsonl, tensorboard, summary.json.
"""


from etils import epath

from data_pipelines import arms
from meta_cot.runtime import files
from meta_cot.settings import config as config_lib
from meta_cot.stages import base
from meta_cot.stages.train import programs as programs_lib
from meta_cot.stages.train import run as run_lib
from meta_cot.stages.train import settings as settings_lib
from meta_cot.stages.train.settings import Settings


def check(context: base.Context, settings: Settings, name: str) -> None:
  """Raises a ConfigError for what training would refuse."""
  if settings.start is None and (
      settings.data.sequence_length > context.shared.model.max_length):
    raise base.wrong(
        name, 'data.sequence_length',
        f'got {settings.data.sequence_length}; must be at most '
        f'config.model.max_length, {context.shared.model.max_length}.')
  for arm in settings.arms:
    style, styles = context.shared.style, arms.ARMS[arm].styles
    if style not in styles:
      raise base.wrong(
          name, 'arms', f'got {arm!r} with config.style {style!r}; it is '
          f'written in {" or ".join(styles)}.')


def is_whole(
    context: base.Context, settings: Settings, directory: epath.Path) -> bool:
  """Whether every arm is trained, for as many tokens as are asked for."""
  del context
  return all(_is_trained(directory / arm, settings) for arm in settings.arms)


def check_folder(settings: Settings, directory: epath.Path) -> None:
  """Raises a UserError where an arm is trained on more than is asked for."""
  for arm in settings.arms:
    _is_trained(directory / arm, settings)


def _is_trained(directory: epath.Path, settings: Settings) -> bool:
  path = directory / 'summary.json'
  if not path.exists():
    return False
  asked = files.read_json(path)['num_tokens_asked']
  if asked > settings.num_tokens:
    raise config_lib.UserError(
        f'{directory}: trained on {asked} tokens; num_tokens, '
        f'{settings.num_tokens}, may grow but not shrink.')
  return asked == settings.num_tokens


def num_bytes(shared: base.Shared, settings: Settings) -> int:
  """Estimates parameters and two moments in float32, for every arm.

  Where all checkpoints are kept, two of each count.
  """
  kept = settings.max_to_keep or 2
  return 12 * shared.model.num_params() * len(settings.arms) * kept


def run(
    context: base.Context, settings: Settings, directory: epath.Path) -> None:
  """Trains every arm that has no summary yet.

  Raises:
    UserError: what it reads is missing, or cannot be trained on.
    Interrupted: a signal came; what is needed to continue is saved.
  """
  settings_lib.check_devices(settings, directory.name, context.mesh)
  for arm in settings.arms:
    if not _is_trained(directory / arm, settings):
      run_lib.Run.of(context, settings, arm, directory / arm).train()


STAGE = base.Stage(
    Settings=Settings, run=run,
    uses=('seed', 'task', 'model', 'style'),
    reads=lambda settings: (
        settings.records, settings.start or settings.tokenizer),
    grown=lambda settings: dict(num_tokens=settings.num_tokens),
    leaves=lambda settings: settings.arms,
    check=check, check_folder=check_folder,
    check_devices=settings_lib.check_devices,
    num_bytes=num_bytes, is_whole=is_whole, programs=programs_lib.programs)
