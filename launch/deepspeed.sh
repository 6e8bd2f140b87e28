#!/usr/bin/env bash
# A run started by DeepSpeed's launcher. What stands before the config goes to it:
#
#     launch/deepspeed.sh --num_accelerators 4 CONFIG [key=value ...]
#     launch/deepspeed.sh --hostfile hosts CONFIG [key=value ...]          lines such as "node1 slots=4"
#
# A config with [shard] kind = "zero" needs deepspeed, which this installs, and not this launcher: launch/torchrun.sh and
# launch/mpirun.sh start it as well. If a process dies, all end, and the same command resumes.
set -euo pipefail
# shellcheck source=launch/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

split_at_config "launch/deepspeed.sh --num_accelerators WORKERS CONFIG.toml [key=value ...]" "$@"

prepare demo
prepare deepspeed
export PATH="$venv/bin:$PATH"

"$python" -m zodist train "${settings[@]}" --check

exec "$venv/bin/deepspeed" --no_local_rank "${options[@]}" --module zodist train "${settings[@]}"
