#!/usr/bin/env bash
# What the files in slurm/ have in common; to be sourced by them, in the folder of the checkout:
#
#     run_step OPTIONS... COMMAND...      srun in the background, until it ends or the time limit is near
#
# Shortly before the time limit Slurm sends SIGUSR1 to the batch script (#SBATCH --signal=B:USR1@120). It goes on to the
# workers, which finish their step, write a snapshot and leave; then the job goes back into the queue, and resumes. After
# the crash of a node Slurm itself puts the job back (#SBATCH --requeue).

# The arguments of the batch script; a member of an array job takes its number for the seed.
settings=("$@")
if [[ -n ${SLURM_ARRAY_TASK_ID:-} ]]; then
    settings+=("run.seed=$SLURM_ARRAY_TASK_ID" "run.folder=runs/$(basename "$1" .toml)-seed-$SLURM_ARRAY_TASK_ID")
fi

asked=0

pass_on() {
    asked=1
    echo "time is nearly up: asking the workers to stop"
    scancel --signal=USR1 "$SLURM_JOB_ID.0"
}

run_step() {
    local status=0 pid
    trap pass_on USR1
    srun --kill-on-bad-exit=1 "$@" &
    pid=$!
    wait "$pid" || status=$?
    while kill -0 "$pid" 2>/dev/null; do # a signal ends the wait, not srun
        status=0
        wait "$pid" || status=$?
    done
    # 69: a worker was lost, perhaps with its node, which Slurm may find out later than the other workers.
    if ((asked || status == 69)); then
        echo "the workers left with status $status; back into the queue"
        scontrol requeue "$SLURM_JOB_ID"
    fi
    return "$status"
}
