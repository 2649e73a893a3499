#!/usr/bin/env bash
# Remove a run, or what caches have left.
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/lib.sh
source scripts/lib.sh

usage() {
  cat <<'END'
usage: scripts/clean.sh

With RUN, removes this run's folder for good, if it is not running. Without, removes Python's and the checkers' caches,
and encoded data in runs/cache/; runs, plans, models and the environment stay.
END
}

main() {
  take_no_options "$@"
  if [ -n "${RUN:-}" ]; then
    use_python
    exec "$PYTHON_BIN" python/remove_run.py --run="$RUN"
  fi
  local cache=${RECETARIO_RUNS:-runs}/cache
  rm -rf .pytest_cache .ruff_cache
  if [ -d "$cache" ]; then # what a start may be filling, hidden and of today, stays
    find "$cache" -mindepth 1 -maxdepth 1 ! -name plans ! \( -name '.*' -mmin -1440 \) -exec rm -rf {} +
  fi
  find python tests -name __pycache__ -type d -prune -exec rm -rf {} +
}

main "$@"
