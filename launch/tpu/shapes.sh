# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# Sourced by launch/tpu/gce.sh and gke.sh: a slice as Compute Engine and GKE name
# it.

TOPOLOGY=      # such as 2x2x4, in chips
MACHINE_TYPE=  # of a host
NODE_LABEL=    # GKE's name of the accelerator
CHIPS=         # of one host

# Fills them from ACCELERATOR_TYPE.
read_shape() {
  local type=${SETTING[ACCELERATOR_TYPE]} size chips
  size=${type#*-}
  case $type in
    v5litepod-*)
      NODE_LABEL=tpu-v5-lite-podslice MACHINE_TYPE=ct5lp-hightpu ;;
    v6e-*) NODE_LABEL=tpu-v6e-slice MACHINE_TYPE=ct6e-standard ;;
    v5p-*) NODE_LABEL=tpu-v5p-slice MACHINE_TYPE=ct5p-hightpu ;;
    v4-*) NODE_LABEL=tpu-v4-podslice MACHINE_TYPE=ct4p-hightpu ;;
    tpu7x-*) NODE_LABEL=tpu7x MACHINE_TYPE=tpu7x-standard ;;
    *) usage_error "${SETTING_SOURCE[ACCELERATOR_TYPE]}:\
 ACCELERATOR_TYPE=$type is served by --via=tpu-vm only." ;;
  esac
  case $type in
    tpu7x-*) TOPOLOGY=$size chips=$((${size//x/*})) ;;
    v5litepod-* | v6e-*) chips=$size TOPOLOGY=$(plane "$size") ;;
    *) chips=$((size / 2)) TOPOLOGY=$(cube $((size / 2))) ;;
  esac
  [[ -n $TOPOLOGY ]] || usage_error "${SETTING_SOURCE[ACCELERATOR_TYPE]}:\
 ACCELERATOR_TYPE=$type has no topology of its own; take a power of two."
  CHIPS=$((chips / $(hosts_per_slice)))
  MACHINE_TYPE+=-${CHIPS}t
}

# The topology of so many chips: two dimensions, at most 256.
plane() {
  case $1 in
    1) echo 1x1 ;;
    4) echo 2x2 ;;
    8) echo 2x4 ;;
    16) echo 4x4 ;;
    32) echo 4x8 ;;
    64) echo 8x8 ;;
    128) echo 8x16 ;;
    256) echo 16x16 ;;
  esac
}

# The same in three dimensions: as near to a cube as powers of two come.
cube() {
  local chips=$1 x=1 y=1 z=1
  ((chips >= 4 && (chips & (chips - 1)) == 0)) || return 0
  if ((chips == 4)); then
    echo 2x2x1
    return
  fi
  while ((x * y * z < chips)); do
    if ((z == y && z == x || z < y)); then
      z=$((z * 2))
    elif ((y < z)); then
      y=$((y * 2))
    else
      x=$((x * 2))
    fi
  done
  echo "${x}x${y}x$z"
}
