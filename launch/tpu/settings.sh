# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# Sourced by launch/tpu.sh: messages, and the settings of a TPU run.
#
# A value comes from a flag (--zone=Z), else from the environment
# (META_COT_TPU_ZONE=Z), else from the settings file (ZONE=Z), else from the
# default below. The file is read, never executed.

declare -A SETTING=()           # key -> value
declare -A SETTING_SOURCE=()    # key -> where the value comes from
declare -A SETTING_PATTERN=()   # key -> regular expression of a whole value
declare -A SETTING_ALLOWED=()   # key -> the same in words
declare -a SETTING_KEYS=()
declare -A RUN_ENVIRONMENT=()   # variables of the run, from ENV_NAME=value

readonly EXIT_USAGE=2

say() { echo "[tpu] $*"; }

warn() { echo "warning: $*" >&2; }

fail() {
  echo "error: $*" >&2
  exit 1
}

usage_error() {
  echo "error: $*" >&2
  exit "$EXIT_USAGE"
}

# Quotes words so that a shell reads them back.
quote() {
  local word separator=''
  for word; do
    if [[ ! $word =~ ^[A-Za-z0-9_@%+=:,./-]+$ ]]; then
      word=\'${word//\'/\'\\\'\'}\'
    fi
    printf '%s%s' "$separator" "$word"
    separator=' '
  done
  echo
}

# setting KEY DEFAULT PATTERN ALLOWED; the default (required) means none.
setting() {
  SETTING_KEYS+=("$1")
  SETTING[$1]=$2
  SETTING_SOURCE[$1]=default
  SETTING_PATTERN[$1]=$3
  SETTING_ALLOWED[$1]=$4
}

declare_settings() {
  local words='(--[^[:space:]]+([[:space:]]+--[^[:space:]]+)*)?'
  local seconds='[0-9]+(\.[0-9]+)?' count='[0-9]+'
  setting PROJECT '(required)' '[a-z][a-z0-9.:-]+' 'a project id'
  setting ZONE '(required)' '[a-z]+-[a-z]+[0-9]+-[a-z]' \
    'a zone such as us-east5-a'
  setting NAME '(required)' '[a-z]([a-z0-9-]{0,48}[a-z0-9])?' \
    'small letters, digits and dashes, at most 50'
  setting ACCELERATOR_TYPE '(required)' \
    '(v[2-4]|v5p|v5litepod|v6e)-[0-9]+|tpu7x-[1-9][0-9]*x[1-9][0-9]*x[1-9][0-9]*' \
    'v5litepod-N, v5p-N, v6e-N, v4-N, v3-N, v2-N or tpu7x-AxBxC'
  setting VIA tpu-vm 'tpu-vm|compute-engine|gke' 'tpu-vm, compute-engine or gke'
  setting CLUSTER '' '[a-z0-9-]*' 'the name of a GKE cluster'
  setting CLUSTER_LOCATION '' '[a-z0-9-]*' 'a region or zone'
  setting NAMESPACE default '[a-z0-9-]+' 'a namespace of the cluster'
  setting IMAGE '' "[^[:space:]\$\`\"'\\\\]*" \
    'a container image such as us-docker.pkg.dev/my-project/a/meta-cot'
  setting QUEUE '' '[a-z0-9.-]*' 'the name of a Kueue queue'
  setting POD_SERVICE_ACCOUNT '' '[a-z0-9.-]*' \
    'a service account of the cluster'
  setting RUNTIME_VERSION auto '[a-z0-9][a-z0-9.-]+' 'a TPU software version'
  setting NUM_SLICES 1 '[1-9][0-9]*' 'a number >= 1'
  setting MODE queued 'queued|vm' 'queued or vm'
  setting SPOT 0 '[01]' '0 or 1'
  setting RESERVED 0 '[01]' '0 or 1'
  setting VALID_UNTIL_DURATION '' '([0-9]+[smhd])*' 'a duration such as 6h'
  setting NETWORK '' '[a-z0-9./-]*' 'the name of a network'
  setting SUBNETWORK '' '[a-z0-9./-]*' 'the name of a subnetwork'
  setting SERVICE_ACCOUNT '' '[^@[:space:]]+@[^@[:space:]]+|' \
    'the address of a service account'
  setting CREATE_FLAGS '' "$words" "flags of gcloud's create"
  setting SSH_ROUTE external 'external|internal|iap' 'external, internal or iap'
  setting SSH_USER '' '[a-z0-9_.-]*' 'a user name'
  setting WORKDIR '(required)' "[^[:space:]\$\`]+" \
    'a folder such as gs://BUCKET/runs/a'
  setting SHARED_WORKDIR 0 '[01]' '0 or 1'
  setting CONFIG '(required)' '[^[:space:]]+\.py(:[^[:space:]]+)?' \
    'a config such as configs/countdown.py:pod'
  setting OVERRIDES '' "$words" 'flags of meta_cot.main'
  setting PORT 8482 '[1-9][0-9]{3,4}' 'a port >= 1000'
  setting MAX_RESTARTS 10 "$count" 'a number >= 0'
  setting MAX_PARALLEL 16 '[1-9][0-9]*' 'a number >= 1'
  setting SSH_RETRIES 2 "$count" 'a number >= 0'
  setting LAST_LINES 20 '[1-9][0-9]*' 'a number >= 1'
  setting WAIT_SECONDS 86400 "$seconds" 'seconds'
  setting POLL_SECONDS 30 "$seconds" 'seconds'
  setting WATCH_SECONDS 1 "$seconds" 'seconds'
  setting RETRY_SECONDS 10 "$seconds" 'seconds'
  setting BOOT_SECONDS 300 "$seconds" 'seconds'
  setting STOP_SECONDS 300 "$seconds" 'seconds'
  setting FAIL_SECONDS 10 "$seconds" 'seconds'
  setting SETTLE_SECONDS 90 "$seconds" 'seconds'
}

# set_value KEY VALUE SOURCE
set_value() {
  local key=$1 value=$2 source=$3
  if [[ $key =~ ^ENV_([A-Za-z_][A-Za-z0-9_]*)$ ]]; then
    RUN_ENVIRONMENT[${BASH_REMATCH[1]}]=$value
    return
  fi
  [[ -n ${SETTING_PATTERN[$key]+x} ]] || usage_error \
    "$source: unknown key '$key'; the keys are ${SETTING_KEYS[*]} and\
 ENV_<variable>; see launch/tpu.env.example."
  [[ $value =~ ^(${SETTING_PATTERN[$key]})$ ]] || usage_error \
    "$source: $key='$value'; must be ${SETTING_ALLOWED[$key]}."
  SETTING[$key]=$value
  SETTING_SOURCE[$key]=$source
}

read_settings_file() {
  local file=$1 line key value number=0
  local -A seen=()
  [[ -f $file ]] || usage_error "--settings=$file: no such file; copy\
 launch/tpu.env.example to launch/tpu.env and fill it in."
  while IFS= read -r line || [[ -n $line ]]; do
    number=$((number + 1))
    line=${line%$'\r'}
    [[ $line =~ ^[[:space:]]*(#.*)?$ ]] && continue
    [[ $line =~ ^[[:space:]]*([A-Za-z_][A-Za-z0-9_]*)=(.*)$ ]] || usage_error \
      "$file:$number: '$line' is not KEY=VALUE."
    key=${BASH_REMATCH[1]} value=${BASH_REMATCH[2]}
    if [[ $value =~ ^\"([^\"]*)\"[[:space:]]*(#.*)?$ ||
        $value =~ ^\'([^\']*)\'[[:space:]]*(#.*)?$ ]]; then
      value=${BASH_REMATCH[1]}
    else
      [[ $value != [\"\']* ]] || usage_error \
        "$file:$number: $key: the quote is not closed."
      value=${value%%[[:space:]]#*}
      value=${value%"${value##*[![:space:]]}"}
    fi
    [[ -z ${seen[$key]+x} ]] || usage_error \
      "$file:$number: $key is set already in line ${seen[$key]}."
    seen[$key]=$number
    set_value "$key" "$value" "$file:$number"
  done <"$file"
}

# load_settings FILE FLAG_NAME=VALUE...
load_settings() {
  local file=$1 variable pair
  shift
  declare_settings
  read_settings_file "$file"
  while IFS= read -r variable; do
    [[ $variable == META_COT_TPU_* ]] || continue
    set_value "${variable#META_COT_TPU_}" "${!variable}" "environment $variable"
  done < <(compgen -e)
  for pair; do
    set_value "${pair%%=*}" "${pair#*=}" "$(flag_of "${pair%%=*}")"
  done
  check_settings "$file"
}

# The flag that sets a key.
flag_of() {
  local flag=${1,,}
  echo "--${flag//_/-}"
}

check_settings() {
  local file=$1 key
  for key in "${SETTING_KEYS[@]}"; do
    [[ ${SETTING[$key]} != '(required)' ]] || usage_error "$file: $key is\
 missing; add $key=... (${SETTING_ALLOWED[$key]}) or give $(flag_of "$key")=..."
  done
  if [[ ${SETTING[SPOT]}${SETTING[RESERVED]} == 11 ]]; then
    usage_error "${SETTING_SOURCE[RESERVED]}: RESERVED=1 does not go with\
 SPOT=1; set one of them to 0."
  fi
  if ((SETTING[NUM_SLICES] > 1)) &&
      [[ ${SETTING[VIA]} == tpu-vm && ${SETTING[MODE]} == vm ]]; then
    usage_error "${SETTING_SOURCE[MODE]}: MODE=vm makes one slice, got\
 NUM_SLICES=${SETTING[NUM_SLICES]}; set MODE=queued."
  fi
  if ((SETTING[PORT] > 65534)); then
    usage_error "${SETTING_SOURCE[PORT]}: PORT=${SETTING[PORT]}; must be\
 <= 65534."
  fi
  check_via
  if [[ ${SETTING[RUNTIME_VERSION]} == auto ]]; then
    SETTING[RUNTIME_VERSION]=$(runtime_version)
  fi
}

# What a way needs, and what it cannot do.
check_via() {
  local key
  case ${SETTING[VIA]} in
    tpu-vm) [[ ${SETTING[ACCELERATOR_TYPE]} != tpu7x-* ]] || usage_error \
      "${SETTING_SOURCE[ACCELERATOR_TYPE]}: the Cloud TPU API does not serve\
 TPU7x; run: launch/tpu.sh create --via=compute-engine, or on a cluster\
 --via=gke --cluster=CLUSTER --image=IMAGE" ;;
    compute-engine) [[ ${SETTING[ACCELERATOR_TYPE]} =~ ^(v5p|v6e|tpu7x)- ]] ||
      usage_error "${SETTING_SOURCE[ACCELERATOR_TYPE]}: VIA=compute-engine\
 serves v5p, v6e and tpu7x, got ${SETTING[ACCELERATOR_TYPE]}; run:\
 launch/tpu.sh create --via=tpu-vm" ;;
    gke)
      for key in CLUSTER IMAGE; do
        [[ -n ${SETTING[$key]} ]] || usage_error "${SETTING_SOURCE[VIA]}:\
 VIA=gke needs $key; add $key=... or give $(flag_of "$key")=..."
      done ;;
  esac
  if [[ ${SETTING[VIA]} != tpu-vm && ${SETTING[RESERVED]} == 1 ]]; then
    usage_error "${SETTING_SOURCE[RESERVED]}: RESERVED=1 is for VIA=tpu-vm;\
 name the reservation in CREATE_FLAGS."
  fi
}

# Software of the VMs; on Compute Engine the family of their image.
runtime_version() {
  case ${SETTING[VIA]}:${SETTING[ACCELERATOR_TYPE]} in
    compute-engine:tpu7x-*) echo ubuntu-accel-2404-amd64-tpu-tpu7x ;;
    compute-engine:*) echo ubuntu-accel-2204-amd64-tpu-v5e-v5p-v6e ;;
    *:v5litepod-*) echo v2-alpha-tpuv5-lite ;;
    *:v5p-*) echo v2-alpha-tpuv5 ;;
    *:v6e-*) echo v2-alpha-tpuv6e ;;
    *) echo tpu-ubuntu2204-base ;;
  esac
}

# Hosts of one slice. The number in the type counts chips for v5e and v6e (up
# to 8 on one host, else 4), and cores for the others (8 per host).
hosts_per_slice() {
  local type=${SETTING[ACCELERATOR_TYPE]}
  local size=${type##*-}
  if [[ $type == tpu7x-* ]]; then
    echo $(((${size//x/*} + 3) / 4))
  elif ((size <= 8)); then
    echo 1
  elif [[ $type == v5litepod-* || $type == v6e-* ]]; then
    echo $(((size + 3) / 4))
  else
    echo $(((size + 7) / 8))
  fi
}

# Refuses a workdir that the workers would not share.
check_workdir() {
  local workers=$(($(hosts_per_slice) * SETTING[NUM_SLICES]))
  [[ ${SETTING[WORKDIR]} == gs://?* || ${SETTING[SHARED_WORKDIR]} == 1 ]] &&
    return
  ((workers == 1)) || usage_error "${SETTING_SOURCE[WORKDIR]}:\
 WORKDIR=${SETTING[WORKDIR]} is a local folder, and $workers workers must share\
 it; use gs://BUCKET/..., or SHARED_WORKDIR=1 if every worker mounts it."
  warn "WORKDIR=${SETTING[WORKDIR]} is on the VM's own disk: results and\
 checkpoints are lost with the VM."
}

# Reads the config and all settings of the run, before anything is paid for.
check_config() {
  local python extra has='import importlib.util as u, sys; sys.exit(not (
    u.find_spec("jax") and u.find_spec("meta_cot.main")))'
  read -ra extra <<<"${SETTING[OVERRIDES]}"
  for python in ${META_COT_PYTHON:-"${META_COT_VENV:-.venv}/bin/python" python3}
  do
    "$python" -c "$has" 2>/dev/null || continue
    JAX_PLATFORMS=cpu "$python" -m meta_cot.main --check \
      "--config=${SETTING[CONFIG]}" "--workdir=${SETTING[WORKDIR]}" \
      "${extra[@]}" || exit "$EXIT_USAGE"
    return
  done
  warn "CONFIG=${SETTING[CONFIG]} is not checked: no Python here has meta_cot's\
 packages; set META_COT_PYTHON to one that has."
}

# Milliseconds of a duration in seconds, and of the clock.
milliseconds() {
  local whole=${1%%.*} part=000
  [[ $1 != *.* ]] || part=${1#*.}000
  echo $((10#$whole * 1000 + 10#${part:0:3}))
}

clock() { echo $((${EPOCHREALTIME//[^0-9]/} / 1000)); }
