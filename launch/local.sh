#!/usr/bin/env bash
# A run in some worker processes of this machine:
#
#     launch/local.sh WORKERS CONFIG [key=value ...]
#
# If a worker dies or the run is interrupted, the same command goes on, also with another number of WORKERS: the weights
# are the same to the bit.
# SIGTERM to torchrun: the run finishes its step, writes a snapshot and leaves, if that takes less than 30 seconds.
set -euo pipefail
# shellcheck source=launch/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

[[ ${1:-} =~ ^[1-9][0-9]*$ && -n ${2:-} ]] || fail "usage: launch/local.sh WORKERS CONFIG [key=value ...]" 2
workers=$1
shift

prepare demo
share_cores "$workers"
# Everything stays on this machine, whatever its host name resolves to.
if [[ -e /sys/class/net/lo ]]; then
    export GLOO_SOCKET_IFNAME=${GLOO_SOCKET_IFNAME:-lo}
fi

# A mistake in the settings is one sentence here, and would be a page of torchrun's there.
"$python" -m zodist train "$@" --check

exec "$python" -m torch.distributed.run --standalone --local-addr 127.0.0.1 --nproc-per-node "$workers" \
    -m zodist train "$@"
