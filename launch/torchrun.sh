#!/usr/bin/env bash
# A run on several machines that share the run folder's file system or have the model each. On every machine:
#
#     [WORKERS=1] [PORT=29400] launch/torchrun.sh NODES NODE ADDRESS CONFIG [key=value ...]
#
# NODES     how many machines, or a range such as 2:4: then machines may come and go while the run goes on
# NODE      the number of this machine, 0 .. NODES - 1; machine 0 writes journal and snapshots
# ADDRESS   host name or address of machine 0, as the others reach it; port PORT must be open there
# WORKERS   worker processes on this machine
#
# Where the host name of a machine resolves to 127.0.1.1 (Debian), say which interface the others reach:
# GLOO_SOCKET_IFNAME=eth0. If a worker dies, torchrun starts all again, three times at most, and they resume.
set -euo pipefail
# shellcheck source=launch/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

[[ ${1:-} =~ ^[1-9][0-9]*(:[1-9][0-9]*)?$ && ${2:-} =~ ^[0-9]+$ && -n ${4:-} ]] ||
    fail "usage: launch/torchrun.sh NODES NODE ADDRESS CONFIG [key=value ...]" 2
nodes=$1 node=$2 address=$3
workers=${WORKERS:-1} port=${PORT:-29400}
shift 3

prepare demo
share_cores "$workers"

if [[ $nodes == *:* ]]; then
    # torchrun's own store may not be shared with the workers when machines come: the agents would wait for each other.
    export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
    meeting=(--rdzv-backend c10d --rdzv-endpoint "$address:$port" --rdzv-id zodist
        --rdzv-conf "is_host=$((node == 0)),last_call_timeout=5,keep_alive_interval=1,keep_alive_max_attempt=5")
else
    meeting=(--node-rank "$node" --master-addr "$address" --master-port "$port")
fi

"$python" -m zodist train "$@" --check

exec "$python" -m torch.distributed.run --nnodes "$nodes" --nproc-per-node "$workers" --max-restarts 3 "${meeting[@]}" \
    -m zodist train "$@"
