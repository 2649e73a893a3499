#!/usr/bin/env bash
# Run the tests.
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/lib.sh
source scripts/lib.sh

usage() {
  cat <<'END'
usage: scripts/test.sh [pytest option …]

Runs the tests in tests/, or those in TESTS, two files at a time. Options go to pytest: scripts/test.sh -k lock -x
(with --pdb or -s also -n 0, for one at a time in this process).
END
}

main() {
  answer_help "$@"
  set_up_python
  export HF_HUB_OFFLINE=1 # nothing a test does may reach the hub
  # Most of a test's time is one thread that imports: two at a time, the tests of a file one after the other.
  exec "$PYTHON_BIN" -m pytest --numprocesses=2 --dist=loadfile --durations=15 "$@" ${TESTS:+"$TESTS"}
}

main "$@"
