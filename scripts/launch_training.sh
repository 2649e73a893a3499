#!/usr/bin/env bash
# Train a DeepSpeed recipe: environment, data, then GPUs, model and settings checked, and a rank on each GPU.
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/lib.sh
source scripts/lib.sh

usage() {
  cat <<'END'
usage: scripts/launch_training.sh [option of python/main.py …]

Trains frida-h100 on the GPUs of this node, or of several. Makes the sample data where none is. Everything is checked
before a model is loaded; the exit code is the training's.

Variables, as given to make:
  NUM_GPUS          GPUs on each node (default: the recipe's 8)
  BACKGROUND=1      train in the background: make status, logs, stop, resume
  SMOKE=1           the demo model, a few steps, two ranks on the CPU
  HOSTFILE          several nodes, started from here over ssh with pdsh: one line a node, HOST slots=N
  NODE_RANK         with HOSTFILE, MASTER_ADDR and MASTER_PORT: this node only; start the same on every node
  RESUME=1          carry on the run RUN, with as many ranks as it had; FORCE=1: although something has changed
  RUN, OUTPUT       name of the run; another folder for it
  TRAIN, VAL        data files (default: sample data)
  MODEL, REVISION   a model folder, or a name that was downloaded
  RECIPE            another DeepSpeed recipe
  SET               any setting, as in SET=data.allow_leak=true

  scripts/launch_training.sh --epochs 3 --learning-rate 5e-5
  make train-h100 NUM_GPUS=4 BACKGROUND=1
END
}

main() {
  answer_help "$@"
  local place=(--foreground) recipe=${RECIPE:-frida-h100}
  if is_on BACKGROUND; then place=(); fi
  if is_on RESUME; then resume "$@"; fi
  read_variables RUN=--run OUTPUT=--output SMOKE=--smoke! TRAIN=--data VAL=--validation MODEL=--model \
    SET=--set MAX_RESTARTS=--max-restarts "${TEAM_VARIABLES[@]}"
  if [ -n "${REVISION:-}" ]; then OPTIONS+=(--set "model.revision=$REVISION"); fi

  stage "environment"
  set_up_python
  if ! is_on SMOKE && [ -z "${TRAIN:-}" ] && [ "$recipe" = frida-h100 ] && ! has_data; then
    stage "data"
    RECIPE=frida-h100 FORCE=0 scripts/make_data.sh
  fi
  stage "checks, then training"
  exec "$PYTHON_BIN" python/start_run.py ${place[@]+"${place[@]}"} --recipe "$recipe" \
    ${OPTIONS[@]+"${OPTIONS[@]}"} "$@"
}

# A run keeps its settings: what else is given is refused by the command.
resume() {
  read_variables RUN=--run FORCE=--force! OUTPUT=--output TRAIN=--data VAL=--validation MODEL=--model SET=--set \
    "${TEAM_VARIABLES[@]}"
  use_python
  exec "$PYTHON_BIN" python/resume_run.py ${place[@]+"${place[@]}"} ${OPTIONS[@]+"${OPTIONS[@]}"} "$@"
}

has_data() {
  local folder=${RECETARIO_RUNS:-runs}/data/frida-h100
  [ -f "$folder/train.jsonl" ] && [ -f "$folder/validation.jsonl" ]
}

stage() {
  say "$(date -u +%Y-%m-%dT%H:%M:%SZ) $1"
}

main "$@"
