#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Runs meta_cot on TPUs of Google Cloud; launch/README.md tells how.
#
#   launch/tpu.sh create   asks for the TPU and waits until it is there
#   launch/tpu.sh setup    brings the committed code to every worker
#   launch/tpu.sh run      starts on all workers, shows rank 0, restarts after a
#                          preemption, ends when the job ends
#   launch/tpu.sh status   the TPU and every rank
#   launch/tpu.sh logs     a rank's log: --rank=0 --lines=100 --follow
#   launch/tpu.sh stop     SIGTERM to all ranks, waits until they have saved
#   launch/tpu.sh resume   what is missing of create and setup; then watches the
#                          running job, or runs the same command again
#   launch/tpu.sh delete   deletes the TPU: only this ends the costs
#
# --via=tpu-vm (the Cloud TPU API), compute-engine (managed instance groups) or
# gke (a JobSet) says by which way.
#
# Flags: --settings=FILE (launch/tpu.env), --dry-run (prints the commands, runs
# nothing), --allow-dirty (setup: uncommitted code too), --KEY=VALUE for every
# key of the settings file, such as --num-slices=2. What follows -- goes to
# meta_cot.main (run, resume).
#
# Exit codes: 0 done; 75 stopped and saved, resume continues; 2 wrong settings
# or flags; 1 Google Cloud or ssh failed; else the code of the rank that failed.
set -euo pipefail
if ((BASH_VERSINFO[0] < 5)); then
  echo "error: bash $BASH_VERSION is too old; install bash 5 (macOS: brew\
 install bash)." >&2
  exit 2
fi
start=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=launch/tpu/settings.sh
source launch/tpu/settings.sh
# shellcheck source=launch/tpu/resources.sh
source launch/tpu/resources.sh
# shellcheck source=launch/tpu/workers.sh
source launch/tpu/workers.sh
# shellcheck source=launch/tpu/watch.sh
source launch/tpu/watch.sh
# shellcheck source=launch/tpu/job.sh
source launch/tpu/job.sh

DRY_RUN=
ALLOW_DIRTY=
FOLLOW=
LOG_RANK=0
LOG_LINES=100
SETTINGS_FILE=launch/tpu.env
COMMAND=
declare -a SETTING_FLAGS=() PROGRAM_ARGUMENTS=()

usage() { sed -n '/^# Runs/,/^set/{/^set/d;s/^# \{0,1\}//;p}' launch/tpu.sh; }

parse_arguments() {
  local name
  while (($#)); do
    case $1 in
      create | setup | run | status | logs | stop | resume | delete)
        [[ -z $COMMAND ]] || usage_error "two commands: $COMMAND and $1."
        COMMAND=$1 ;;
      --) shift && PROGRAM_ARGUMENTS=("$@") && break ;;
      -h | --help) usage && exit ;;
      --dry-run) DRY_RUN=yes ;;
      --allow-dirty) ALLOW_DIRTY=yes ;;
      --follow) FOLLOW=yes ;;
      --rank=*) LOG_RANK=$(number "$1") ;;
      --lines=*) LOG_LINES=$(number "$1") ;;
      --settings=*)
        SETTINGS_FILE=${1#*=}
        [[ $SETTINGS_FILE == /* || $start == "$PWD" ]] ||
          SETTINGS_FILE=$start/$SETTINGS_FILE ;;
      --[a-z]*=*)
        name=${1%%=*} name=${name#--} name=${name^^}
        SETTING_FLAGS+=("${name//-/_}=${1#*=}") ;;
      *) usage_error "'$1': unknown argument; see launch/tpu.sh --help." ;;
    esac
    shift
  done
  [[ -n $COMMAND ]] || usage_error "no command; give one of create, setup, run,\
 status, logs, stop, resume, delete."
  ((${#PROGRAM_ARGUMENTS[@]} == 0)) || [[ $COMMAND == @(run|resume) ]] ||
    usage_error "'--' goes with run and resume, not with $COMMAND."
}

number() {
  [[ ${1#*=} =~ ^[0-9]+$ ]] || usage_error "$1: must be a number >= 0."
  echo "${1#*=}"
}

# Reads the resource, which must be ready, and its ranks.
require_ready() {
  read_state ready
  case $STATE in
    ready) load_ranks ;;
    unknown) fail "could not ask Google Cloud: $STATE_TEXT" ;;
    absent) fail "$(what) does not exist; run 'launch/tpu.sh create'." ;;
    *) fail "$STATE_TEXT; it must be ready: run 'launch/tpu.sh create' to wait\
 for it, or 'launch/tpu.sh resume' to make it again." ;;
  esac
}

command_create() {
  check_workdir
  check_config
  [[ ${SETTING[VIA]} != tpu-vm || -n $DRY_RUN ]] || echo "note: the Cloud TPU\
 API (VIA=tpu-vm) gets fixes only and ends before TPU7x; --via=compute-engine and\
 --via=gke go on." >&2
  create_resource
}

command_setup() {
  require_ready
  [[ -n $DRY_RUN ]] || mkdir -p "$RUN_FOLDER"
  pack_code
  install_code
}

command_run() {
  check_workdir
  require_ready
  read_ranks
  check_code
  if [[ -n $(rank_with_status running) ]]; then
    fail "job ${RANK_JOB[$(rank_with_status running)]} is running already;\
 'launch/tpu.sh resume' watches it, 'launch/tpu.sh stop' ends it."
  fi
  run_or_print ''
}

command_resume() {
  local rank
  check_workdir
  read_state ready
  case $STATE in
    ready)
      load_ranks
      read_ranks ;;
    unknown) fail "could not ask Google Cloud: $STATE_TEXT" ;;
    *)
      mkdir -p "$RUN_FOLDER"
      [[ -f $RUN_FOLDER/code.tar.gz ]] || pack_code
      recover ;;
  esac
  check_code
  run_or_print "$(running_job)"
}

run_or_print() {
  local rank
  if [[ -z $DRY_RUN ]]; then
    run_to_the_end "$1"
    return
  fi
  for_each_rank '' start_rank 001
  for rank in "${!RANK_SLICE[@]}"; do
    ssh_rank "$rank" "bash $WORKER_SCRIPT watch 001 1\
 ${SETTING[WATCH_SECONDS]}"
  done
}

command_status() {
  local rank
  read_state ready
  say_unless_dry "${STATE_TEXT:-$STATE}"
  [[ $STATE == ready ]] || return 0
  load_ranks
  read_ranks
  for rank in "${!RANK_STATUS[@]}"; do
    say "$(rank_name "$rank"): ${RANK_STATUS[rank]}, job ${RANK_JOB[rank]},\
 code ${RANK_VERSION[rank]}"
  done
}

command_logs() {
  local line job
  read_state ready
  [[ $STATE == ready ]] || fail "$STATE_TEXT; the logs that were copied are in\
 $RUN_FOLDER/logs."
  load_ranks
  ((LOG_RANK < $(num_ranks))) || usage_error "--rank=$LOG_RANK: there are\
 $(num_ranks) ranks, from 0."
  if [[ -z $FOLLOW ]]; then
    remote "$LOG_RANK" "bash $WORKER_SCRIPT tail $LOG_LINES" ||
      fail "no log from $(rank_name "$LOG_RANK")."
    return
  fi
  read_ranks
  job=${RANK_JOB[LOG_RANK]:-001}
  [[ $job != none ]] || fail "no job has run on $(rank_name "$LOG_RANK")."
  while IFS= read -r line; do
    [[ -z $DRY_RUN ]] || echo "$line"
    [[ ! $line =~ ^[0-9]+: ]] || echo "${line#*:}"
  done < <(ssh_rank "$LOG_RANK" "bash $WORKER_SCRIPT watch $job 1\
 ${SETTING[WATCH_SECONDS]}")
}

command_stop() {
  require_ready
  say_unless_dry "asking $(num_ranks) ranks to save and end, at most\
 ${SETTING[STOP_SECONDS]} s"
  stop_ranks "${SETTING[STOP_SECONDS]}" ||
    fail 'not every rank could be reached; see launch/tpu.sh status.'
}

command_delete() { delete_resource; }

parse_arguments "$@"
load_settings "$SETTINGS_FILE" "${SETTING_FLAGS[@]}"
case ${SETTING[VIA]} in
  # Each redefines what it does otherwise.
  compute-engine)
    # shellcheck source=launch/tpu/gce.sh
    source launch/tpu/gce.sh ;;
  gke)
    # shellcheck source=launch/tpu/gke.sh
    source launch/tpu/gke.sh ;;
esac
RUN_FOLDER=runs/${SETTING[NAME]}
SCRATCH=$(mktemp -d)
trap 'stop_watchers; rm -rf "$SCRATCH"' EXIT
if [[ -z $DRY_RUN ]]; then
  command -v gcloud >/dev/null || usage_error "gcloud is not on the PATH;\
 install it: https://cloud.google.com/sdk/docs/install"
  [[ ${SETTING[VIA]} != gke ]] || command -v kubectl >/dev/null || usage_error \
    "kubectl is not on the PATH; run: gcloud components install kubectl"
fi
"command_$COMMAND"
