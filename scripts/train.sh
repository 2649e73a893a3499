#!/usr/bin/env bash
# Train a recipe, here or in the background.
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/lib.sh
source scripts/lib.sh

usage() {
  cat <<'END'
usage: scripts/train.sh [--background] [--recipe NAME] [option of the recipe's command …]

Trains a recipe in runs/NAME. Here, Ctrl-C saves and stops; with --background the run outlives the terminal, and this
returns when it has begun. Options that are not listed go to the recipe's command: see python/finetune_ba.py --help.

  --background      train in the background
  --recipe NAME     a name in recipes/, or a YAML file
  --default-recipe NAME     the recipe where none is given

Variables, as given to make: RECIPE, RUN (name of the run), TRAIN and VAL (data files), MODEL (folder, or a name
that was downloaded), REVISION, OUTPUT (another folder for the run), SET (any setting, as in
SET=data.allow_leak=true), SMOKE=1 (the demo model and a few steps), MAX_RESTARTS (in the background: how often a killed
training is carried on, if it gets further each time). For a DeepSpeed recipe also NUM_GPUS, HOSTFILE, NODE_RANK,
MASTER_ADDR and MASTER_PORT: see scripts/launch_training.sh --help.
Paths are relative to the project.

  scripts/train.sh --recipe ba-cpu --run mine --train mine.jsonl --epochs 2
  make train RECIPE=ba-cpu RUN=mine TRAIN=mine.jsonl
END
}

main() {
  local place=(--foreground) recipe=${RECIPE:-} default="" rest=()
  while [ $# -gt 0 ]; do
    case $1 in
    -h | --help)
      usage
      return
      ;;
    --background) place=() ;;
    --recipe)
      need_value "$@"
      recipe=$2
      shift
      ;;
    --default-recipe)
      need_value "$@"
      default=$2
      shift
      ;;
    --recipe=*) recipe=${1#*=} ;;
    *) rest+=("$1") ;;
    esac
    shift
  done
  recipe=${recipe:-$default}
  if [ -z "$recipe" ]; then
    die "$EX_USAGE" "no recipe given" "recipes: $(list_recipes)" "make train RECIPE=NAME"
  fi
  read_variables RUN=--run OUTPUT=--output SMOKE=--smoke! TRAIN=--train VAL=--val MODEL=--base-model SET=--set \
    MAX_RESTARTS=--max-restarts "${TEAM_VARIABLES[@]}"
  if [ -n "${REVISION:-}" ]; then OPTIONS+=(--set "model.revision=$REVISION"); fi
  set_up_python
  exec "$PYTHON_BIN" python/start_run.py ${place[@]+"${place[@]}"} --recipe "$recipe" \
    ${OPTIONS[@]+"${OPTIONS[@]}"} ${rest[@]+"${rest[@]}"}
}

list_recipes() {
  local file names=""
  for file in recipes/*.yaml; do
    file=${file##*/}
    names="$names${names:+, }${file%.yaml}"
  done
  printf '%s' "$names"
}

main "$@"
