# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# Sourced by launch/tpu.sh: queued resources and TPU VMs, and their states.

STATE=        # absent | waiting | ready | lost | failed | unknown
STATE_TEXT=   # what Google Cloud says
declare -a NODE_ADDRESSES=()  # per slice: internal addresses, ;-separated

# call WORD...: one command, without input; a dry run prints it.
call() {
  if [[ -n $DRY_RUN ]]; then
    quote "$@"
  else
    "$@" </dev/null
  fi
}

# cloud WORD...: gcloud in this project.
cloud() { call gcloud "$@" "--project=${SETTING[PROJECT]}"; }

# tpus GROUP VERB NAME FLAG...: gcloud's Cloud TPU API.
tpus() {
  local -a command=(gcloud)
  # Only alpha tunnels through the Identity-Aware Proxy.
  if [[ ${SETTING[SSH_ROUTE]} == iap && $2 == s[sc][hp] ]]; then
    command+=(alpha)
  fi
  command+=(compute tpus "$@" "--project=${SETTING[PROJECT]}"
    "--zone=${SETTING[ZONE]}")
  call "${command[@]}"
}

is_queued() { [[ ${SETTING[MODE]} == queued ]]; }

what() {
  is_queued && echo "queued resource ${SETTING[NAME]}" ||
    echo "TPU VM ${SETTING[NAME]}"
}

# The node of a slice. Google Cloud numbers the nodes of a multi-slice request.
node_name() {
  if ((SETTING[NUM_SLICES] > 1)); then
    echo "${SETTING[NAME]}-$1"
  else
    echo "${SETTING[NAME]}"
  fi
}

# Sets STATE and STATE_TEXT, and NODE_ADDRESSES where the state is ready.
# $1: the state that a dry run goes on with.
read_state() {
  local answer
  if is_queued; then
    if [[ -n $DRY_RUN ]]; then
      tpus queued-resources describe "${SETTING[NAME]}" \
        '--format=value(state.state)'
    elif ! answer=$(tpus queued-resources describe "${SETTING[NAME]}" \
        '--format=value(state.state)' 2>"$SCRATCH/error"); then
      STATE=$(state_of_error absent)
      STATE_TEXT=$(last_error)
      return
    else
      STATE_TEXT="$(what) is $answer"
      case $answer in
        ACTIVE) ;;
        CREATING | ACCEPTED | WAITING_FOR_RESOURCES | PROVISIONING)
          STATE=waiting && return ;;
        SUSPENDING | SUSPENDED | DELETING) STATE=lost && return ;;
        FAILED) STATE=failed && return ;;
        *) STATE=unknown && return ;;
      esac
    fi
  fi
  read_nodes "$1"
}

# The same for the nodes of the slices.
read_nodes() {
  local assumed=$1 slice node answer state addresses
  NODE_ADDRESSES=()
  for ((slice = 0; slice < SETTING[NUM_SLICES]; slice++)); do
    node=$(node_name "$slice")
    if [[ -n $DRY_RUN ]]; then
      # A node that is not there has no addresses to print.
      if [[ $assumed != absent ]] || ! is_queued; then
        tpus tpu-vm describe "$node" \
          '--format=value(state,networkEndpoints[].ipAddress)'
      fi
      continue
    fi
    if ! answer=$(tpus tpu-vm describe "$node" \
        '--format=value(state,networkEndpoints[].ipAddress)' \
        2>"$SCRATCH/error"); then
      # A node missing from an active queued resource was taken away.
      STATE=$(state_of_error "$(is_queued && echo lost || echo absent)")
      STATE_TEXT=$(last_error)
      return
    fi
    IFS=$'\t' read -r state addresses <<<"$answer"
    STATE_TEXT="node $node is $state"
    case $state in
      READY) ;;
      CREATING | STARTING | RESTARTING | REIMAGING | REPAIRING)
        STATE=waiting && return ;;
      *) STATE=lost && return ;;
    esac
    NODE_ADDRESSES[slice]=$addresses
  done
  STATE=ready
  STATE_TEXT="$(what) is ready"
  [[ -z $DRY_RUN ]] || STATE=$assumed
}

# unknown, but $1 where the last error says that the resource does not exist.
state_of_error() {
  if grep -qE 'NOT_FOUND|not found|was not found' "$SCRATCH/error"; then
    echo "$1"
  else
    echo unknown
  fi
}

# Deletes what $2 names, a $1, by the command $3...; if it is gone it is no error.
delete_one() {
  if "${@:3}" delete "$2" --quiet 2>"$SCRATCH/error"; then
    say_unless_dry "$1 $2 is deleted"
  elif [[ $(state_of_error absent) == absent ]]; then
    say "$1 $2 does not exist"
  else
    cat "$SCRATCH/error" >&2
    fail "could not delete $1 $2; it may still cost money: try again, or\
 delete it in the console."
  fi
}

last_error() { tr -s '\n' ' ' <"$SCRATCH/error"; }

create_flags() {
  local -a flags=("--accelerator-type=${SETTING[ACCELERATOR_TYPE]}") extra=()
  if is_queued; then
    flags+=("--runtime-version=${SETTING[RUNTIME_VERSION]}")
    if ((SETTING[NUM_SLICES] > 1)); then
      flags+=("--node-count=${SETTING[NUM_SLICES]}"
        "--node-prefix=${SETTING[NAME]}")
    else
      flags+=("--node-id=${SETTING[NAME]}")
    fi
    [[ -z ${SETTING[VALID_UNTIL_DURATION]} ]] ||
      flags+=("--valid-until-duration=${SETTING[VALID_UNTIL_DURATION]}")
  else
    flags+=("--version=${SETTING[RUNTIME_VERSION]}")
  fi
  [[ ${SETTING[SPOT]} == 0 ]] || flags+=(--spot)
  [[ ${SETTING[RESERVED]} == 0 ]] || flags+=(--reserved)
  [[ -z ${SETTING[NETWORK]} ]] || flags+=("--network=${SETTING[NETWORK]}")
  [[ -z ${SETTING[SUBNETWORK]} ]] ||
    flags+=("--subnetwork=${SETTING[SUBNETWORK]}")
  [[ -z ${SETTING[SERVICE_ACCOUNT]} ]] ||
    flags+=("--service-account=${SETTING[SERVICE_ACCOUNT]}")
  [[ ${SETTING[SSH_ROUTE]} == external ]] || flags+=(--internal-ips)
  read -ra extra <<<"${SETTING[CREATE_FLAGS]}"
  printf '%s\n' "${flags[@]}" "${extra[@]}"
}

# Asks for the resource. A VM is there or refused at once, so a zone that is
# full is asked again; a queued resource waits in Google's queue.
request_resource() {
  local deadline group=tpu-vm
  local -a flags
  ! is_queued || group=queued-resources
  mapfile -t flags < <(create_flags)
  if [[ -n $DRY_RUN ]]; then
    tpus "$group" create "${SETTING[NAME]}" "${flags[@]}"
    return
  fi
  say "asking for $(what): ${SETTING[NUM_SLICES]} x\
 ${SETTING[ACCELERATOR_TYPE]} in ${SETTING[ZONE]}"
  deadline=$(($(clock) + $(milliseconds "${SETTING[WAIT_SECONDS]}")))
  until tpus "$group" create "${SETTING[NAME]}" "${flags[@]}" \
      2>"$SCRATCH/error"; do
    if [[ $(failure_kind <"$SCRATCH/error") != capacity ]] || is_queued ||
        (($(clock) > deadline)); then
      explain_failure "$(<"$SCRATCH/error")"
    fi
    say "no capacity in ${SETTING[ZONE]}; next try in\
 ${SETTING[POLL_SECONDS]} s (Ctrl-C gives up)"
    sleep "${SETTING[POLL_SECONDS]}"
  done
}

# Waits until the resource can be used.
wait_ready() {
  local deadline shown=''
  deadline=$(($(clock) + $(milliseconds "${SETTING[WAIT_SECONDS]}")))
  while true; do
    read_state ready
    [[ -z $DRY_RUN ]] || return 0
    [[ $STATE_TEXT == "$shown" ]] || say "$STATE_TEXT"
    shown=$STATE_TEXT
    case $STATE in
      ready) return ;;
      failed) explain_failure "$(failure_message)" ;;
      lost) fail "$STATE_TEXT before it could be used; delete it and create it\
 again: launch/tpu.sh delete, launch/tpu.sh create." ;;
      absent) fail "$(what) disappeared: $STATE_TEXT" ;;
    esac
    (($(clock) < deadline)) || fail "$STATE_TEXT after\
 ${SETTING[WAIT_SECONDS]} s (WAIT_SECONDS); it stays in the queue: wait on with\
 'launch/tpu.sh create', give up with 'launch/tpu.sh delete'."
    sleep "${SETTING[POLL_SECONDS]}"
  done
}

# Why a request ended as failed.
failure_message() {
  tpus queued-resources describe "${SETTING[NAME]}" \
    '--format=value(state.failedData.error.message)' 2>&1 || true
}

# What went wrong, from a message on stdin: one word.
failure_kind() {
  local message
  message=$(cat)
  shopt -s nocasematch
  case $message in
    *quota*) echo quota ;;
    *SERVICE_DISABLED* | *'has not been used in project'*) echo service ;;
    *'no more capacity'* | *stockout* | *RESOURCE_POOL_EXHAUSTED* | \
      *'insufficient'*'capacity'* | *'enough resources available'*)
      echo capacity ;;
    *PERMISSION_DENIED* | *'not have permission'* | *UNAUTHENTICATED* | \
      *'gcloud auth login'* | *forbidden* | *required*permission*)
      echo permission ;;
    *ALREADY_EXISTS* | *'already exists'*) echo exists ;;
    *INVALID_ARGUMENT* | *'invalid value'* | *'not found'* | *NOT_FOUND*)
      echo argument ;;
    *) echo other ;;
  esac
  shopt -u nocasematch
}

# Prints Google's message and what to do about it, and exits.
explain_failure() {
  echo "$1" >&2
  fail "could not create $(what); $(advice "$(failure_kind <<<"$1")")."
}

# advice KIND: what to do about a failure.
advice() {
  local project=${SETTING[PROJECT]} zone=${SETTING[ZONE]}
  case $1 in
    quota) echo "ask for quota of ${SETTING[ACCELERATOR_TYPE]} in $zone\
 (console: IAM & Admin > Quotas, service tpu.googleapis.com; spot has its own),\
 or take a smaller ACCELERATOR_TYPE or another ZONE" ;;
    service) echo "run: gcloud services enable tpu.googleapis.com\
 --project=$project" ;;
    permission) echo "run 'gcloud auth login' and check that the account has\
 the role roles/tpu.admin in project $project" ;;
    capacity) echo "try again later, another ZONE, or MODE=queued, which\
 waits in Google's queue" ;;
    exists) echo "remove it with 'launch/tpu.sh delete' or choose another\
 NAME" ;;
    argument) echo "check ACCELERATOR_TYPE and RUNTIME_VERSION against:\
 gcloud compute tpus accelerator-types list --zone=$zone --project=$project" ;;
    *) echo "see the message above" ;;
  esac
}

# Creates what is missing and waits for it.
create_resource() {
  read_state absent
  case $STATE in
    ready) say "$STATE_TEXT" && return ;;
    waiting) ;;
    absent) request_resource ;;
    unknown) explain_failure "$STATE_TEXT" ;;
    *) fail "$STATE_TEXT; remove it with 'launch/tpu.sh delete' first, or let\
 'launch/tpu.sh resume' do both." ;;
  esac
  wait_ready
}

# Deletes the resource and its nodes; one that is not there is no error.
delete_resource() {
  local -a command=(tpu-vm delete "${SETTING[NAME]}" --quiet)
  # Without --force, a queued resource with living nodes cannot be deleted.
  ! is_queued || command=(
    queued-resources delete "${SETTING[NAME]}" --force --quiet)
  if [[ -n $DRY_RUN ]]; then
    tpus "${command[@]}"
  elif tpus "${command[@]}" 2>"$SCRATCH/error"; then
    say "$(what) is deleted"
  elif [[ $(state_of_error absent) == absent ]]; then
    say "$(what) does not exist"
  else
    cat "$SCRATCH/error" >&2
    fail "could not delete $(what); it may still cost money: try again, or\
 delete it in the console."
  fi
}
