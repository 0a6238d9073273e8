#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Runs on every worker of a TPU, called by launch/tpu.sh through ssh:
#
#   worker.sh install                  code.new -> code, Python environment
#   worker.sh state                    STATUS JOB CODE_VERSION, one line
#   worker.sh start JOB [NAME=VALUE...] -- ARGUMENT...   in the background
#   worker.sh watch JOB FROM SECONDS   numbered log lines until the job ends
#   worker.sh stop SECONDS             SIGTERM, and SIGKILL after the seconds
#   worker.sh tail LINES               last lines of the log
#
# ~/meta_cot holds code, venv, and of the last job in run: job (its number), pid
# (this script, watching the program), child (the program), log, exit_code (code
# and time), stop_requested.
set -euo pipefail
script=$(realpath "${BASH_SOURCE[0]}")
mkdir -p "$HOME/meta_cot/run"
cd "$HOME/meta_cot"

fail() {
  echo "error: $*" >&2
  exit 1
}

# Whether the last job's watcher lives. Process ids start again at a reboot, so
# the boot is part of the name.
is_running() {
  local pid boot
  [[ -f run/pid && ! -f run/exit_code ]] || return 1
  read -r pid boot <run/pid
  [[ $boot == "$(boot_id)" ]] && kill -0 "$pid" 2>/dev/null &&
    [[ $(ps -o stat= -p "$pid") != Z* ]]
}

boot_id() { cat /proc/sys/kernel/random/boot_id 2>/dev/null || echo none; }

last_job() { cat run/job 2>/dev/null || echo none; }

code_version() { cat code/CODE_VERSION 2>/dev/null || echo none; }

# Python 3.11 or newer with venv; the older TPU images come with 3.10.
install_python() {
  local python='' apt=(sudo env DEBIAN_FRONTEND=noninteractive apt-get -y -qq
    -o DPkg::Lock::Timeout=600)
  python=$(find_python 2>/dev/null) || true
  if [[ -n $python ]] && "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    return
  fi
  # Images that bring a new Python leave out its venv.
  if [[ -n $python ]]; then
    python=python$("$python" -c \
      'import sys; print("%d.%d" % sys.version_info[:2])')
  else
    python=python3.11
    sudo add-apt-repository -y ppa:deadsnakes/ppa ||
      echo "no deadsnakes repository; trying the distribution's $python"
  fi
  "${apt[@]}" update || true
  "${apt[@]}" install "$python" "$python-venv" ||
    fail "apt-get could not install $python; see its messages above."
}

install() {
  ! is_running || fail "job $(last_job) is running here; stop it before setup\
 (launch/tpu.sh stop)."
  rm -rf code.old
  [[ ! -d code ]] || mv code code.old
  mv code.new code
  cd code
  # shellcheck source=launch/environment.sh
  source launch/environment.sh
  install_python
  META_COT_VENV=$HOME/meta_cot/venv prepare_environment '[tpu]'
  rm -rf "$HOME/meta_cot/code.old"
  echo "ready: code $(<CODE_VERSION)"
}

state() {
  local status=idle
  if is_running; then
    status=running
  elif [[ ! -x venv/bin/python || ! -d code ]]; then
    status=empty
  elif [[ -f run/exit_code ]]; then
    status=ended:$(cut -d' ' -f1 run/exit_code)
  elif [[ -f run/pid ]]; then
    status=ended:lost
  fi
  echo "$status $(last_job) $(code_version)"
}

# Starting the same job again is no error: the answer to the first call may have
# been lost with the connection.
start() {
  local job=$1 pid
  local -a environment=()
  shift
  if [[ $(last_job) == "$job" && -f run/pid ]]; then
    echo "job $job was started already"
    return
  fi
  ! is_running || fail "job $(last_job) is running here."
  [[ -x venv/bin/python ]] || fail "no code here; run 'launch/tpu.sh setup'."
  while [[ $1 != -- ]]; do
    environment+=("$1")
    shift
  done
  shift
  # An older job may have left these to the shell; a wrong one hangs the start.
  unset MEGASCALE_COORDINATOR_ADDRESS MEGASCALE_NUM_SLICES MEGASCALE_SLICE_ID
  rm -f run/exit_code run/stop_requested run/child run/pid
  : >run/log
  echo "$job" >run/job
  META_COT_CODE_VERSION=$(code_version) setsid bash "$script" supervise \
    env "${environment[@]}" "$HOME/meta_cot/venv/bin/python" \
    -m meta_cot.main "$@" >run/log 2>&1 </dev/null &
  pid=$!
  echo "$pid $(boot_id)" >run/pid.new
  mv run/pid.new run/pid
  echo "job $job started"
}

# Runs the program and writes down how it ended. A signal for this script, such
# as a host's shutdown sends, waits until the program has ended.
supervise() {
  local code=0
  trap : TERM INT HUP
  # shellcheck disable=SC2016  # expanded by the inner shell
  bash -c 'echo $$ >run/child; cd code; exec "$@"' program "$@" || code=$?
  echo "$code $(date +%s.%N)" >run/exit_code.new
  mv run/exit_code.new run/exit_code
}

# Prints NUMBER:LINE from line FROM on, and at the end
# "meta_cot-job:CODE TIME asked|unasked"; the code of a lost program is lost.
watch() {
  local job=$1 from=$2 seconds=$3 number=0 line='' part='' ended
  [[ $(last_job) == "$job" ]] || fail "job $job is not here; the last one is\
 $(last_job)."
  exec 3<run/log
  while true; do
    ended=''
    is_running || ended=yes
    while IFS= read -r line <&3; do
      number=$((number + 1))
      ((number < from)) || echo "$number:$part$line"
      part=''
    done
    part+=$line
    [[ -z $ended ]] || break
    sleep "$seconds"
  done
  [[ -z $part ]] || echo "$((number + 1)):$part"
  echo "meta_cot-job:$(exit_code) $([[ -f run/stop_requested ]] &&
    echo asked || echo unasked)"
}

# Without a code the watcher died as well: the host was restarted.
exit_code() { cat run/exit_code 2>/dev/null || echo lost "$(date +%s.%N)"; }

stop() {
  local deadline=$((${EPOCHREALTIME//[^0-9]/} / 1000 + $1)) pid
  if ! is_running; then
    echo "not running (last exit code: $(exit_code | cut -d' ' -f1))"
    return
  fi
  : >run/stop_requested
  read -r pid _ <run/pid
  [[ ! -f run/child ]] || kill -TERM "$(<run/child)" 2>/dev/null || true
  while is_running && ((${EPOCHREALTIME//[^0-9]/} / 1000 < deadline)); do
    sleep 0.1
  done
  if is_running; then
    kill -KILL -- "-$pid" 2>/dev/null || true
    echo "137 $(date +%s.%N)" >run/exit_code
    echo 'killed: it did not end in time'
  else
    echo "ended with code $(exit_code | cut -d' ' -f1)"
  fi
}

case $1 in
  install | state | start | supervise | watch | stop) "$@" ;;
  tail) tail -n "$2" run/log 2>/dev/null || fail 'no job has run here.' ;;
  *) fail "unknown command '$1'." ;;
esac
