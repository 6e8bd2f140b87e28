#!/usr/bin/env bash
# A run with MPI. What stands before the config goes to mpirun (here MPICH's, from a Python package):
#
#     launch/mpirun.sh -n 4 CONFIG [key=value ...]
#     launch/mpirun.sh -n 4 -hosts a,b CONFIG [key=value ...]
#
# The machines need this folder at the same place. If a process dies, MPI ends all of them; the same command resumes.
# SIGUSR1 or SIGTERM to mpirun reaches the workers: the run finishes its step, writes a snapshot and leaves, status 75.
set -euo pipefail
# shellcheck source=launch/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

split_at_config "launch/mpirun.sh -n WORKERS CONFIG.toml [key=value ...]" "$@"

prepare demo
prepare mpi

exec "$venv/bin/mpirun" "${options[@]}" "$python" -m zodist train "${settings[@]}"
