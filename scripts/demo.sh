#!/usr/bin/env bash
# From a fresh clone to a trained and judged model.
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/lib.sh
source scripts/lib.sh

usage() {
  cat <<'END'
usage: scripts/demo.sh

Makes the environment, trains the demo recipe in the background as run "demo", waits for it, compares the plain model,
the model with demonstrations in its prompt and the tuned model, and prints the verdict. Interrupted, the training goes
on; run again, this takes up where it was. What is done already is not done twice.
END
}

readonly NAME=demo

main() {
  take_no_options "$@"
  set_up_python
  train_unless_done
  "$PYTHON_BIN" python/watch_run.py --run "$NAME"
  say "comparing the plain, the prompted and the tuned model"
  "$PYTHON_BIN" python/compare_ba_models.py --run "$NAME"
  say "make chat RUN=$NAME talks to it; $(ask folder)/report.html explains the training; README.md goes on with your own data"
}

train_unless_done() {
  local state
  state=$(ask state)
  if [ -z "$state" ] || { [ "$(ask running)" = false ] && [ ! -f "$(ask folder)/run.json" ]; }; then
    start
    return
  fi
  case $state in
  completed | stopped | crashed)
    if ! is_unchanged; then
      set_aside
      start
    elif [ "$state" = completed ]; then
      say "run $NAME is trained already"
    else
      "$PYTHON_BIN" python/resume_run.py --run "$NAME"
    fi
    ;;
  failed)
    set_aside
    start
    ;;
  *) say "run $NAME is being trained already" ;;
  esac
}

start() {
  unset RUN TRAIN VAL MODEL REVISION OUTPUT SMOKE # this is the demo, whatever else is set
  RECIPE=demo scripts/train_background.sh --run "$NAME"
}

# ask FIELD prints a field of the run's status, nothing when there is no such run.
ask() {
  "$PYTHON_BIN" python/status.py --run "$NAME" --field "$1" 2>/dev/null || true
}

# Is the run one of today's recipe, data and model?
is_unchanged() {
  "$PYTHON_BIN" python/compare_inputs.py --run "$NAME" --recipe demo
}

# Nothing is ever overwritten: an old run gets another name.
set_aside() {
  local folder other
  folder=$(ask folder)
  other=$NAME-$(date -u +%Y%m%d-%H%M%S)
  say "run $NAME is kept as $other, and trained anew"
  mv -- "$folder" "${folder%/*}/$other"
}

main "$@"
