#!/usr/bin/env bash
# Every check of the project: ruff, ruff format, pyright, all tests. Arguments go to pytest: launch/test.sh -k journal
# The tests share the cores, a file at a time. All four run even if one fails; the exit status is that of the first failure. The last line is pytest's summary.
set -euo pipefail
# shellcheck source=launch/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

prepare dev
cd "$root"
export PATH="$venv/bin:$PATH"

status=0
failed=()
check() { # COMMAND ...
    local code=0
    printf '\n== %s\n' "$*"
    "$@" || code=$?
    if ((code)); then
        failed+=("$*")
        ((status)) || status=$code
    fi
}

log=$(mktemp)
trap 'rm -f "$log"' EXIT
# shellcheck disable=SC2329  # called through check
tests() {
    python -m pytest -q --durations=15 -n auto --dist loadfile "$@" 2>&1 | tee "$log"
}

# transformers imports torchao wherever it finds it, two seconds in every process: so it lies apart, for the one file that needs it.
# shellcheck disable=SC2329
quantised() {
    [[ -d $venv/torchao ]] ||
        python -m pip install --quiet --disable-pip-version-check --no-deps --target "$venv/torchao" \
            --constraint launch/constraints.txt torchao || return
    PYTHONPATH=$venv/torchao python -m pytest -q tests/models/test_quantise.py
}

check ruff check .
check ruff format --check .
check pyright
check tests "$@"
(($#)) || check quantised

printf '\n'
if ((status)); then
    printf 'failed: %s\n' "${failed[@]}"
fi
tail -n 1 "$log"
exit "$status"
