# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# Sourced by launch/tpu.sh: the workers of all slices, ssh, and the code there.
#
# Workers are numbered over all slices: rank = slice * workers per slice +
# worker, which is also the process id of jax.distributed.

declare -a RANK_SLICE=() RANK_WORKER=() RANK_ADDRESS=()
FAILED_RANK=
FAILED_CODE=

readonly WORKER_SCRIPT=meta_cot/code/launch/tpu/worker.sh
readonly CONNECTION_LOST=255

# The ranks of a resource whose state has been read and is ready.
load_ranks() {
  local slice worker expected
  local -a addresses
  expected=$(hosts_per_slice)
  RANK_SLICE=() RANK_WORKER=() RANK_ADDRESS=()
  for ((slice = 0; slice < SETTING[NUM_SLICES]; slice++)); do
    addresses=()
    if [[ -n $DRY_RUN ]]; then
      for ((worker = 0; worker < expected; worker++)); do
        addresses+=("ADDRESS_OF_$(node_name "$slice")_WORKER_$worker")
      done
    else
      IFS=';, ' read -ra addresses <<<"${NODE_ADDRESSES[slice]}"
    fi
    ((${#addresses[@]} > 0)) || fail "node $(node_name "$slice") has no\
 addresses; delete it and create it again."
    ((${#addresses[@]} == expected)) || warn "node $(node_name "$slice") has\
 ${#addresses[@]} workers, expected $expected for ${SETTING[ACCELERATOR_TYPE]}."
    for worker in "${!addresses[@]}"; do
      RANK_SLICE+=("$slice")
      RANK_WORKER+=("$worker")
      RANK_ADDRESS+=("${addresses[worker]}")
    done
  done
}

num_ranks() { echo "${#RANK_SLICE[@]}"; }

# What another way than the Cloud TPU API does otherwise: the name of a rank, its
# VM for ssh, flags that choose the worker there, gcloud's ssh and scp, and the
# wait for the first connection.
rank_name() {
  echo "rank $1 (node $(rank_vm "$1"), worker ${RANK_WORKER[$1]})"
}

rank_vm() { node_name "${RANK_SLICE[$1]}"; }

worker_flags() { echo "--worker=${RANK_WORKER[$1]}"; }

reach() { tpus tpu-vm "$@"; }

await_ssh() { remote 0 true; }

rank_file() { printf 'rank-%03d.log' "$1"; }

# VM of a rank, with the user to log in as.
rank_target() {
  echo "${SETTING[SSH_USER]:+${SETTING[SSH_USER]}@}$(rank_vm "$1")"
}

# Flags of every ssh and scp to a rank, one a line. A host that is gone is
# noticed after a minute instead of never.
connection_flags() {
  local kind=$1 rank=$2
  worker_flags "$rank"
  printf '%s\n' --quiet --strict-host-key-checking=no \
    "--$kind-flag=-oConnectTimeout=20" "--$kind-flag=-oServerAliveInterval=15" \
    "--$kind-flag=-oServerAliveCountMax=4"
  case ${SETTING[SSH_ROUTE]} in
    internal) echo --internal-ip ;;
    iap) echo --tunnel-through-iap ;;
  esac
}

# ssh_rank RANK COMMAND: one ssh. gcloud's own exit code does not tell a lost
# connection from a failed command, so the command reports its code in a line.
ssh_rank() {
  local rank=$1 command=$2
  local -a flags
  mapfile -t flags < <(connection_flags ssh "$rank")
  reach ssh "$(rank_target "$rank")" "${flags[@]}" \
    "--command=$command; echo meta_cot-exit:\$?"
}

# remote RANK COMMAND: prints the output; the command's code, or
# CONNECTION_LOST. A connection that fails is tried again.
remote() {
  local rank=$1 command=$2 line code try
  if [[ -n $DRY_RUN ]]; then
    ssh_rank "$rank" "$command"
    return
  fi
  for ((try = 0; try <= SETTING[SSH_RETRIES]; try++)); do
    ((try == 0)) || pause_before_retry "$rank" "$try"
    code=
    while IFS= read -r line || [[ -n $line ]]; do
      if [[ $line == meta_cot-exit:* ]]; then
        code=${line#*:}
      else
        printf '%s\n' "$line"
      fi
    done < <(ssh_rank "$rank" "$command")
    [[ -z $code ]] || return "$code"
  done
  return "$CONNECTION_LOST"
}

pause_before_retry() {
  echo "no connection to $(rank_name "$1"); try $2 of\
 ${SETTING[SSH_RETRIES]} follows" >&2
  sleep "${SETTING[RETRY_SECONDS]}"
}

# for_each_rank FOLDER FUNCTION ARGUMENT...: FUNCTION RANK ARGUMENT... for all
# ranks, in parallel, each with its output in a file. Fails if one fails, with
# FAILED_RANK and FAILED_CODE of the first.
for_each_rank() {
  local folder=$1 function=$2 rank code
  shift 2
  if [[ -n $DRY_RUN ]]; then
    for rank in "${!RANK_SLICE[@]}"; do "$function" "$rank" "$@"; done
    return
  fi
  mkdir -p "$folder"
  local -a pids=()
  for rank in "${!RANK_SLICE[@]}"; do
    while (($(jobs -rp | wc -l) >= SETTING[MAX_PARALLEL])); do
      wait -n || true
    done
    (
      code=0
      "$function" "$rank" "$@" >"$folder/$(rank_file "$rank")" 2>&1 || code=$?
      echo "$code" >"$SCRATCH/code.$rank"
    ) &
    pids+=($!)
  done
  wait "${pids[@]}"
  for rank in "${!RANK_SLICE[@]}"; do
    code=$(<"$SCRATCH/code.$rank")
    ((code == 0)) && continue
    FAILED_RANK=$rank FAILED_CODE=$code
    return 1
  done
}

# Prints the last lines of a rank's file.
show_end() {
  local rank=$1 file=$2
  {
    echo "--- last lines of $(rank_name "$rank"), from $file:"
    tail -n "${SETTING[LAST_LINES]}" "$file" 2>/dev/null || true
    echo '---'
  } >&2
}

# Packs the code into RUN_FOLDER/code.tar.gz with a file CODE_VERSION.
pack_code() {
  local version tree=$SCRATCH/tree
  local -a command=(
    git archive --format=tar "--output=$RUN_FOLDER/code.tar" HEAD)
  if [[ -n $DRY_RUN ]]; then
    quote "${command[@]}"
    return
  fi
  version=$(git rev-parse HEAD 2>/dev/null) ||
    fail "$PWD is no git clone; the code's version could not be recorded."
  if [[ -n $(git status --porcelain) ]]; then
    [[ -n $ALLOW_DIRTY ]] || fail "the working tree differs from its commit\
 ($(git status --porcelain | wc -l) files); commit, or pack it as it is with\
 --allow-dirty."
    git ls-files -z --cached --others --exclude-standard |
      while IFS= read -r -d '' file; do
        [[ ! -e $file ]] || printf '%s\0' "$file"
      done | tar --null --files-from=- -cf "$RUN_FOLDER/code.tar"
    version+=-dirty-$(cksum <"$RUN_FOLDER/code.tar" | cut -d' ' -f1)
  else
    "${command[@]}"
  fi
  mkdir -p "$tree"
  echo "$version" >"$tree/CODE_VERSION"
  tar -rf "$RUN_FOLDER/code.tar" -C "$tree" CODE_VERSION
  gzip -f "$RUN_FOLDER/code.tar"
  echo "$version" >"$RUN_FOLDER/CODE_VERSION"
  say "packed code $version"
}

# Brings the packed code and its environment to every worker.
install_code() {
  local logs=$RUN_FOLDER/logs/setup
  say_unless_dry "setting up $(num_ranks) workers; logs in $logs"
  check_connection "$logs"
  for_each_rank "$logs" install_rank || {
    show_end "$FAILED_RANK" "$logs/$(rank_file "$FAILED_RANK")"
    if ((FAILED_CODE == CONNECTION_LOST)); then
      fail "no ssh connection to $(rank_name "$FAILED_RANK")."
    fi
    fail "setup failed on $(rank_name "$FAILED_RANK") with code $FAILED_CODE;\
 the same command tries again."
  }
  say_unless_dry 'all workers are set up'
}

# One ssh to rank 0, alone: the first one makes and spreads the key.
check_connection() {
  local logs=$1
  if [[ -n $DRY_RUN ]]; then
    remote 0 true
    return
  fi
  mkdir -p "$logs"
  await_ssh >"$logs/connect.log" 2>&1 || {
    tail -n "${SETTING[LAST_LINES]}" "$logs/connect.log" >&2
    fail "no ssh connection to $(rank_name 0) after ${SETTING[SSH_RETRIES]}\
 retries; is port 22 open in the network's firewall, and SSH_ROUTE right?"
  }
}

say_unless_dry() { [[ -n $DRY_RUN ]] || say "$@"; }

install_rank() {
  local rank=$1 try copied=''
  local -a flags
  mapfile -t flags < <(connection_flags scp "$rank")
  for ((try = 0; try <= SETTING[SSH_RETRIES]; try++)); do
    ((try == 0)) || pause_before_retry "$rank" "$try"
    if reach scp "$RUN_FOLDER/code.tar.gz" \
        "$(rank_target "$rank"):meta_cot_code.tar.gz" "${flags[@]}"; then
      copied=yes
      break
    fi
  done
  [[ -n $copied ]] || return "$CONNECTION_LOST"
  remote "$rank" "mkdir -p meta_cot && rm -rf meta_cot/code.new &&\
 mkdir meta_cot/code.new &&\
 tar -xzf meta_cot_code.tar.gz -C meta_cot/code.new &&\
 bash meta_cot/code.new/launch/tpu/worker.sh install"
}
