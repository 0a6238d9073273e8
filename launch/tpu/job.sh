# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# Sourced by launch/tpu.sh: starting, restarting and ending a job.
#
# A job is one start of meta_cot.main on all ranks, numbered 001, 002, ...

declare -a RANK_STATUS=() RANK_JOB=() RANK_VERSION=()

readonly EXIT_SETTINGS=2   # meta_cot.main: what the user gave is wrong

# Variables and arguments of a rank's program.
start_rank() {
  local rank=$1 job=$2 variable
  local -a variables arguments extra
  variables=(
    META_COT_DISTRIBUTED=1
    "META_COT_COORDINATOR=${RANK_ADDRESS[0]}:${SETTING[PORT]}"
    "META_COT_NUM_PROCESSES=$(num_ranks)"
    "META_COT_PROCESS_ID=$rank")
  if ((SETTING[NUM_SLICES] > 1)); then
    # libtpu connects the slices by these; 8080 is the port it listens on.
    variables+=(
      "MEGASCALE_COORDINATOR_ADDRESS=${RANK_ADDRESS[0]}:8080"
      "MEGASCALE_NUM_SLICES=${SETTING[NUM_SLICES]}"
      "MEGASCALE_SLICE_ID=${RANK_SLICE[rank]}")
  fi
  while IFS= read -r variable; do
    [[ -z $variable ]] ||
      variables+=("$variable=${RUN_ENVIRONMENT[$variable]}")
  done < <(printf '%s\n' "${!RUN_ENVIRONMENT[@]}" | sort)
  read -ra extra <<<"${SETTING[OVERRIDES]}"
  arguments=("--config=${SETTING[CONFIG]}" "--workdir=${SETTING[WORKDIR]}"
    "${extra[@]}" "${PROGRAM_ARGUMENTS[@]}")
  remote "$rank" "bash $WORKER_SCRIPT start $(
    quote "$job" "${variables[@]}" -- "${arguments[@]}")"
}

# Fills RANK_STATUS, RANK_JOB and RANK_VERSION. Fails where a rank does not
# answer.
read_ranks() {
  local rank folder=$SCRATCH/state
  for_each_rank "$folder" remote "if [ -f $WORKER_SCRIPT ]; then bash\
 $WORKER_SCRIPT state; else echo empty none none; fi" || true
  [[ -z $DRY_RUN ]] || return 0
  for rank in "${!RANK_SLICE[@]}"; do
    read -r "RANK_STATUS[rank]" "RANK_JOB[rank]" "RANK_VERSION[rank]" < <(
      grep -E '^(running|empty|idle|ended:[0-9a-z]+) ' "$folder/$(
        rank_file "$rank")" || echo 'unreachable none none')
  done
}

# The first rank whose status matches a pattern; nothing if there is none.
rank_with_status() {
  local rank
  for rank in "${!RANK_STATUS[@]}"; do
    # shellcheck disable=SC2053  # a pattern
    [[ ${RANK_STATUS[rank]} != $1 ]] || { echo "$rank" && return; }
  done
}

# Ends with an error unless the same code waits on every rank.
check_code() {
  local rank
  [[ -z $DRY_RUN ]] || return 0
  rank=$(rank_with_status unreachable)
  [[ -z $rank ]] || {
    tail -n 3 "$SCRATCH/state/$(rank_file "$rank")" >&2
    fail "no ssh connection to $(rank_name "$rank")."
  }
  for rank in "${!RANK_STATUS[@]}"; do
    [[ ${RANK_STATUS[rank]} != empty ]] || fail "$(rank_name "$rank") has no\
 code; run 'launch/tpu.sh setup' first."
    [[ ${RANK_VERSION[rank]} == "${RANK_VERSION[0]}" ]] || fail "$(rank_name \
      "$rank") has code ${RANK_VERSION[rank]}, rank 0 ${RANK_VERSION[0]}; run\
 'launch/tpu.sh setup'."
  done
  say "code ${RANK_VERSION[0]}"
}

# A number that neither this machine nor the workers have used.
next_job() {
  local last=0 name
  for name in "${RANK_JOB[@]}" $(ls "$RUN_FOLDER/logs" 2>/dev/null || true); do
    [[ $name =~ ^[0-9]+$ ]] || continue
    ((10#$name <= last)) || last=$((10#$name))
  done
  printf '%03d\n' $((last + 1))
}

# Ends a failed job everywhere; a preemption shows as a failure first.
end_failed_job() {
  local job=$1 folder=$RUN_FOLDER/logs/$1 deadline
  sleep "${SETTING[WATCH_SECONDS]}"
  judge_failed "$folder"
  say "$(rank_name "$FAILED_RANK") ended with code $OUTCOME_CODE; ending the\
 job on all ranks"
  stop_ranks "${SETTING[FAIL_SECONDS]}" || true
  sleep "${SETTING[WATCH_SECONDS]}"
  stop_watchers
  show_end "$FAILED_RANK" "$folder/$(rank_file "$FAILED_RANK")"
  ((OUTCOME_CODE != EXIT_SETTINGS)) || return 0
  deadline=$(($(clock) + $(milliseconds "${SETTING[SETTLE_SECONDS]}")))
  while true; do
    read_state ready
    if is_gone; then
      OUTCOME=lost
      return
    fi
    [[ ${SETTING[SPOT]} == 1 ]] && (($(clock) < deadline)) || return 0
    sleep "${SETTING[WATCH_SECONDS]}"
  done
}

# Whether the state just read means that the program cannot live.
is_gone() { [[ $STATE == @(lost|absent|failed|waiting) ]]; }

# Looks again which rank failed first, once the others had time to report.
judge_failed() {
  local rank=$FAILED_RANK code=$OUTCOME_CODE
  OUTCOME=
  judge_results "$1"
  [[ $OUTCOME == failed ]] || FAILED_RANK=$rank OUTCOME_CODE=$code
  OUTCOME=failed
}

# stop_ranks SECONDS: prints how each rank ended.
stop_ranks() {
  local rank folder=$SCRATCH/stop code=0
  for_each_rank "$folder" remote "bash $WORKER_SCRIPT stop $(
    milliseconds "$1")" || code=1
  [[ -z $DRY_RUN ]] || return 0
  for rank in "${!RANK_SLICE[@]}"; do
    say "rank $rank: $(tail -n 1 "$folder/$(rank_file "$rank")")"
  done
  return "$code"
}

# Starts a job on all ranks; sets OUTCOME where that is not possible.
start_job() {
  local job=$1 logs=$SCRATCH/start
  say_unless_dry "starting job $job on $(num_ranks) ranks; logs in\
 $RUN_FOLDER/logs/$job"
  OUTCOME=
  for_each_rank "$logs" start_rank "$job" && return
  if ((FAILED_CODE == CONNECTION_LOST)); then
    OUTCOME=lost
    STATE_TEXT="$(rank_name "$FAILED_RANK") is out of reach"
    return
  fi
  show_end "$FAILED_RANK" "$logs/$(rank_file "$FAILED_RANK")"
  stop_ranks "${SETTING[FAIL_SECONDS]}" || true
  fail "could not start on $(rank_name "$FAILED_RANK")."
}

# Makes a lost resource again, with the same code. One that is well after all
# (a signal from its host, a broken network here) is kept.
recover() {
  await_answer
  if [[ $STATE == ready ]]; then
    load_ranks
    read_ranks
    [[ -n $(rank_with_status unreachable) ]] || return 0
  fi
  [[ $STATE == @(absent|waiting) ]] || delete_and_wait
  create_resource
  load_ranks
  install_code
  read_ranks
}

# Deletes what is lost; its name is taken until it is really gone.
delete_and_wait() {
  local deadline
  deadline=$(($(clock) + $(milliseconds "${SETTING[WAIT_SECONDS]}")))
  delete_resource
  await_answer
  while [[ $STATE != absent ]]; do
    (($(clock) < deadline)) || fail "$STATE_TEXT though it was deleted."
    sleep "${SETTING[POLL_SECONDS]}"
    await_answer
  done
}

# Reads the state until Google Cloud answers.
await_answer() {
  local deadline
  deadline=$(($(clock) + $(milliseconds "${SETTING[WAIT_SECONDS]}")))
  read_state ready
  while [[ $STATE == unknown ]]; do
    say "no answer from Google Cloud: $STATE_TEXT"
    (($(clock) < deadline)) || fail "gave up after ${SETTING[WAIT_SECONDS]} s\
 (WAIT_SECONDS); continue with 'launch/tpu.sh resume'."
    sleep "${SETTING[POLL_SECONDS]}"
    read_state ready
  done
}

# The job that runs on all ranks. Where only some run one, they are stopped and
# there is none.
running_job() {
  local rank job=
  for rank in "${!RANK_STATUS[@]}"; do
    if [[ ${RANK_STATUS[rank]} != running ||
        ${RANK_JOB[rank]} != "${RANK_JOB[0]}" ]]; then
      [[ -z $(rank_with_status running) ]] ||
        stop_ranks "${SETTING[FAIL_SECONDS]}" >&2 || true
      return
    fi
    job=${RANK_JOB[rank]}
  done
  echo "$job"
}

# Runs a job to its end, over preemptions. $1: a job to watch first, or ''.
run_to_the_end() {
  local job=$1 restarts=0 pause
  trap 'detach 130' INT
  trap 'detach 143' TERM HUP
  while true; do
    if [[ -z $job ]]; then
      job=$(next_job)
      start_job "$job"
    fi
    if [[ -z $OUTCOME ]]; then
      watch_job "$job"
      [[ $OUTCOME != failed ]] || end_failed_job "$job"
    fi
    stop_watchers
    [[ $OUTCOME == lost ]] || break
    ((restarts < SETTING[MAX_RESTARTS])) || fail "interrupted after $restarts\
 restarts (MAX_RESTARTS): $STATE_TEXT; continue with 'launch/tpu.sh resume'."
    restarts=$((restarts + 1))
    pause=$(backoff "$restarts")
    say "interrupted: $STATE_TEXT; restart $restarts of\
 ${SETTING[MAX_RESTARTS]} in $pause s"
    sleep "$pause"
    recover
    check_code
    job=$(running_job) OUTCOME=
  done
  report_outcome "$job"
}

# Seconds before a restart: twice as many each time, at most ten minutes.
backoff() {
  local wait power=$(($1 > 10 ? 10 : $1 - 1))
  wait=$(($(milliseconds "${SETTING[RETRY_SECONDS]}") << power))
  ((wait <= 600000)) || wait=600000
  printf '%d.%03d\n' $((wait / 1000)) $((wait % 1000))
}

report_outcome() {
  local folder=$RUN_FOLDER/logs/$1
  case $OUTCOME in
    done) say "job $1 is done; results in ${SETTING[WORKDIR]}, logs in\
 $folder. Delete the TPU when you are done: launch/tpu.sh delete" ;;
    saved)
      say "job $1 was stopped and saved; continue with 'launch/tpu.sh resume'"
      exit "$EXIT_SAVED" ;;
    failed)
      echo "error: job $1 failed on $(rank_name "$FAILED_RANK") with code\
 $OUTCOME_CODE; logs of all ranks in $folder." >&2
      exit "$OUTCOME_CODE" ;;
  esac
}

# The job goes on without us: it is in the background on the workers.
detach() {
  stop_watchers
  say "detached; the job goes on and costs money. Watch it with\
 'launch/tpu.sh resume', end it with 'launch/tpu.sh stop'"
  exit "$1"
}
