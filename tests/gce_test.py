# SPDX-License-Identifier: Apache-2.0
"""launch/tpu.sh --via=compute-engine, rehearsed with tests/fake_cloud.py.

What it shares with TPU VMs is in tests/tpu_job_test.py. A group's instances are
pod-y1a0 and pod-z0a0: rank 0 is the one that was made last.
"""

from collections.abc import Iterator
import os
import pathlib

import pytest

from tests import fake_cloud

GOLDEN = pathlib.Path(__file__).parent / 'golden' / 'gce_dry_run.txt'
VERBS = ('create', 'setup', 'run', 'status', 'logs', 'stop', 'resume', 'delete')
# Preempted in its first job, once the first lines have been copied.
PREEMPTED = r'''
job=$(<../run/job)
logs=$FAKE_CLOUD/../clone/runs/pod/logs/$job
echo "rank $META_COT_PROCESS_ID works on $FAKE_WORKER"
if ((10#$job == 1)); then
  while [[ ! -s $logs/rank-000.log || ! -s $logs/rank-001.log ]]; do
    sleep 0.05
  done
  [[ $META_COT_PROCESS_ID == 0 ]] || touch "$FAKE_CLOUD/preempt"
  sleep 60
fi
echo finished
'''


@pytest.fixture(scope='module')
def template(tmp_path_factory) -> fake_cloud.Cloud:
  return fake_cloud.ready_cloud(
      tmp_path_factory.mktemp('template'), fake_cloud.Engine)


@pytest.fixture
def engine(tmp_path, template) -> Iterator[fake_cloud.Cloud]:
  made = fake_cloud.Engine(tmp_path, template)
  yield made
  made.close()


def test_dry_run_prints_the_commands_and_runs_none(engine):
  lines = []
  for flags in (
      ['--accelerator-type=v5p-16', '--num-slices=2', '--spot=1'],
      ['--accelerator-type=v6e-8', '--ssh-route=iap', '--subnetwork=pods'],
      ['--accelerator-type=tpu7x-2x2x2']):
    for verb in VERBS if len(lines) < 2 * len(VERBS) else ('create', 'delete'):
      lines += [f'$ launch/tpu.sh {verb} --dry-run {" ".join(flags)}',
                engine.run(verb, '--dry-run', *flags).stdout]
  found = '\n'.join(lines)
  assert not (engine.state / 'calls.jsonl').exists()
  assert not (engine.repository / 'runs').exists()
  if os.environ.get('UPDATE_GOLDEN') == '1':
    GOLDEN.write_text(found)
  assert found == GOLDEN.read_text(), (
      'the commands changed; look at them, then run this test once with '
      'UPDATE_GOLDEN=1.')


def test_from_create_to_delete(engine):
  """Two slices: ranks follow the sorted names, in every slice."""
  engine.write_settings(NUM_SLICES='2')
  engine.scenario(
      queue=['', 'PROVISIONING'],
      create_errors=["The zone 'projects/my-project/zones/us-east5-a' does not "
                     'have enough resources available'])
  engine.program('env | grep -E "^(META_COT_[CNP]|MEGA|FAKE_WORKER)" | sort\n')
  out = engine.run('create').stdout
  assert out.count('no capacity in us-east5-a; next try') == 1
  assert 'group pod-0: 0 of 2 instances run' in out
  assert out.splitlines()[-1] == '[tpu] instance group pod is ready'
  # A connection is refused, one that runs breaks.
  engine.scenario(ssh_refused={'pod-0-z0a0/0': 1}, drop_watch=1)
  engine.run('setup')
  version = engine.git('rev-parse', 'HEAD')
  assert 'job 001 is done' in engine.run('run').stdout
  workers = ['pod-0-y1a0', 'pod-0-z0a0', 'pod-1-y1a1', 'pod-1-z0a1']
  for rank, worker in enumerate(workers):
    assert engine.log('001', rank).splitlines() == [
        f'FAKE_WORKER={worker}/0',
        'MEGASCALE_COORDINATOR_ADDRESS=10.0.0.1:8080',
        'MEGASCALE_NUM_SLICES=2', f'MEGASCALE_SLICE_ID={rank // 2}',
        f'META_COT_CODE_VERSION={version}',
        'META_COT_COORDINATOR=10.0.0.1:8482', 'META_COT_NUM_PROCESSES=4',
        f'META_COT_PROCESS_ID={rank}']
  assert 'rank 3 (instance pod-1-z0a1): ended:0, job 001' in (
      engine.run('status').stdout)
  engine.run('delete')
  assert engine.resource() == {
      'parts': [], 'instances': {}, 'groups': [], 'made': 1}


def test_preempted_instance_makes_the_group_again(engine):
  engine.write_settings(SPOT='1')
  engine.program(PREEMPTED)
  engine.ready()
  out = engine.run('run').stdout
  assert 'restart 1 of 2' in out
  assert 'rank 0 works on pod-y1a0' in out
  assert 'rank 0 works on pod-y1a1' in out
  assert out.splitlines().count('finished') == 1
  assert engine.log('001', 1) == 'rank 1 works on pod-z0a0/0\n'
  assert len(engine.calls('managed', 'create')) == 1


def test_a_failing_rank_is_named(engine):
  engine.program(r'''
if [[ $META_COT_PROCESS_ID == 1 ]]; then echo 'loss is nan'; exit 3; fi
sleep 60
''')
  engine.ready()
  errors = engine.run('run', code=3).stderr
  assert 'loss is nan' in errors
  assert 'failed on rank 1 (instance pod-z0a0) with code 3' in errors


def test_what_a_group_waits_for_is_said(engine):
  engine.scenario(
      queue=['PROVISIONING'] * 99, queue_error='STOCKOUT\tno v5p is left')
  errors = engine.run('create', '--wait-seconds=0.5', code=1).stderr
  assert ('0 of 2 instances run; last error: STOCKOUT no v5p is left after '
          '0.5 s' in errors)
  assert "give up with 'launch/tpu.sh delete'" in errors
  engine.scenario(
      queue=['PROVISIONING'] * 99,
      queue_error="QUOTA_EXCEEDED\tQuota 'TPUS_PER_TPU_FAMILY' exceeded")
  assert "remove it with 'launch/tpu.sh delete'" in (
      engine.run('create', code=1).stderr)
  engine.run('delete')
  last = engine.run('create', code=1).stderr.splitlines()[-1]
  assert 'ask for quota of v5p-16 in us-east5-a' in last
  assert "goes on asking until 'launch/tpu.sh delete'" in last


def test_refused_create_says_what_to_do(engine):
  refusals = {
      "Required 'compute.instances.create' permission for 'projects/a'":
          'roles/compute.instanceAdmin.v1',
      "Invalid value for field 'resource.properties.machineType'":
          'gcloud compute machine-types list --zones=us-east5-a'}
  engine.scenario(create_errors=list(refusals))
  for message, advice in refusals.items():
    errors = engine.run('create', code=1).stderr
    assert message in errors
    assert advice in errors.splitlines()[-1]
  # What was made before a refusal does not outlive the next try.
  engine.run('create', '--accelerator-type=v5p-8')
  assert '--machine-type=ct5p-hightpu-4t' in engine.calls(
      'instance-templates', 'create')[-1]


def test_wrong_settings(engine):
  for flags, words in (
      (['--accelerator-type=v5litepod-16'], 'serves v5p, v6e and tpu7x'),
      (['--accelerator-type=v5p-24'], 'take a power of two'),
      (['--reserved=1'], 'name the reservation in CREATE_FLAGS'),
      (['--via=tpu-vm', '--accelerator-type=tpu7x-2x2x1'],
       'run: launch/tpu.sh create --via=compute-engine')):
    assert words in engine.refused('create', *flags, code=2)
  assert not (engine.state / 'calls.jsonl').exists()
