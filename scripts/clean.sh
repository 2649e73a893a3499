#!/usr/bin/env bash
# Remove a run, or what caches have left.
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/lib.sh
source scripts/lib.sh

usage() {
  cat <<'END'
usage: scripts/clean.sh

With RUN, removes this run's folder for good, if it is not running. Without, removes Python's and the checkers' caches;
runs, models and the environment stay.
END
}

main() {
  take_no_options "$@"
  if [ -n "${RUN:-}" ]; then
    use_python
    exec "$PYTHON_BIN" python/remove_run.py --run="$RUN"
  fi
  rm -rf .pytest_cache .ruff_cache
  find python tests -name __pycache__ -type d -prune -exec rm -rf {} +
}

main "$@"
