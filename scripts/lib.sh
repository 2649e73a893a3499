# shellcheck shell=bash
# What every script shares: where the project is, which Python runs it, how to speak, how to fail. Sourced, never run.
#
# Bash 3.2 (macOS) must do: no mapfile, no associative arrays, no ${x,,}, no wait -n; an empty array under `set -u`
# is written ${words[@]+"${words[@]}"}.

# shellcheck disable=SC2034  # not every script uses every code
readonly EX_USAGE=64 EX_NOINPUT=66 EX_UNAVAILABLE=69

# Where the ranks of a DeepSpeed recipe run, for read_variables.
# shellcheck disable=SC2034
readonly TEAM_VARIABLES=(NUM_GPUS=--num-gpus HOSTFILE=--hostfile NODE_RANK=--node-rank MASTER_ADDR=--master-addr
  MASTER_PORT=--master-port)

say() { printf '%s\n' "$*" >&2; }

# die CODE "what was wrong" ["what is allowed"] ["next step"]
die() {
  local code=$1 message="error: $2"
  shift 2
  while [ $# -gt 0 ]; do
    if [ -n "$1" ]; then message="$message — $1"; fi
    shift
  done
  say "$message"
  exit "$code"
}

# The Python of the project's environment, in $PYTHON_BIN. RECETARIO_PYTHON names that of another environment, which
# is then taken as it is.
use_python() {
  PYTHON_BIN=${RECETARIO_PYTHON:-$PWD/.venv/bin/python}
  if [ ! -x "$PYTHON_BIN" ]; then
    die "$EX_UNAVAILABLE" "there is no Python at $PYTHON_BIN" "" "make setup"
  fi
}

# The same after making sure that the environment is complete; quick when it is.
set_up_python() {
  if [ -z "${RECETARIO_PYTHON:-}" ]; then scripts/setup.sh --quiet; fi
  use_python
}

# read_variables VARIABLE=--option VARIABLE=--option! …
# Turns what the user gave to make (RUN=mine) into options (--run mine), in the array OPTIONS; with "!" the option is
# a switch, on when the variable is 1; with nothing after "=" the value stands alone. Values never pass through a shell.
read_variables() {
  local pair variable option
  OPTIONS=()
  for pair in "$@"; do
    variable=${pair%%=*}
    option=${pair#*=}
    if [ -z "${!variable:-}" ]; then continue; fi
    case $option in
    *!)
      case ${!variable} in
      1) OPTIONS+=("${option%!}") ;;
      0) ;;
      *) die "$EX_USAGE" "$variable=${!variable}" "$variable is 1 or 0" ;;
      esac
      ;;
    "") OPTIONS+=("${!variable}") ;;
    *) OPTIONS+=("$option=${!variable}") ;;
    esac
  done
}

# is_on VARIABLE is true when the user has set it to 1.
is_on() {
  case ${!1:-0} in
  1) return 0 ;;
  0) return 1 ;;
  *) die "$EX_USAGE" "$1=${!1}" "$1 is 1 or 0" ;;
  esac
}

# need_value "$@" fails when the option in $1 has no value in $2.
need_value() {
  if [ $# -lt 2 ] || [ -z "$2" ]; then die "$EX_USAGE" "$1 needs a value" "" "see ${0##*/} --help"; fi
}

# answer_help "$@" shows the script's usage, and ends, when that is what was asked for.
answer_help() {
  case ${1:-} in
  -h | --help)
    usage
    exit 0
    ;;
  esac
}

# take_no_options "$@" is for a script that has none but --help.
take_no_options() {
  answer_help "$@"
  if [ -n "${1:-}" ]; then unknown_option "$1"; fi
}

unknown_option() {
  die "$EX_USAGE" "unknown option '$1'" "" "see scripts/${0##*/} --help"
}
