# shellcheck shell=bash
# What the scripts of this folder begin with. Source it, do not run it. They declare stages and their commands, which
# run when the script ends with `carry_out`: recipes/books has the rest.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
CALLED_FROM=$PWD PLAN=()
die() {
  printf 'error: %s\n' "$*" >&2
  exit 2 # of an error that the user can mend
}

record() { PLAN+=("$#" "$@"); }
book() { record book "$@"; }     # KEY=VALUE...
stage() { record stage "$@"; }   # NAME TITLE [--folder F] [--after NAME]... [--always] [--resumable] [--at-once N]
counts() { record counts "$@"; } # more words that the stage is known by
run() { record run "$@"; }       # a command of the stage; what is between [ and ] changes no result
run_as() { record run-as "$@"; } # LABEL COMMAND: one of several that run at once

# options NAME [--OPTION DEFAULT]... -- ARGUMENTS...: every option in a variable, as MAX_SOURCE for --max-source.
options() {
  local assignments script
  script=$(cd "$CALLED_FROM" && realpath "$0") # before the folder changes
  python_of_the_environment
  exec 4>&1
  assignments=$(cd "$ROOT" && CALLED_FROM=$CALLED_FROM "$PYTHON" -m recipes.command_line "$script" "$@" 3>&1 1>&4) || exit $?
  exec 4>&-
  [[ -n $assignments ]] || exit 0 # --help
  eval "$assignments"
}

python_of_the_environment() {
  local name=${PYTHON:-python}
  PYTHON=$(command -v "$name") || die "there is no $name: run \"make venv\" and \". .venv/bin/activate\""
  [[ $PYTHON == /* ]] || PYTHON=$CALLED_FROM/$PYTHON
}

fetch() { run python -m recipes.fetch file "$@"; }             # FILE URL [SHA256]
fetch_archive() { run python -m recipes.fetch archive "$@"; }  # FOLDER ENTRY URL [SHA256]
# Whether the raw files are to be fetched: not into a --raw that has files.
raw_is_wanted() {
  [[ -n $RAW_HAS_FILES ]] || return 0
  run echo "$RAW has files: nothing is fetched into it"
  return 1
}

# carry_out FILE: run the plan, and show FILE when the last stage has run.
carry_out() {
  book show="$1"
  cd "$ROOT"
  exec "$PYTHON" -m recipes.carry_out < <(printf '%s\0' "${PLAN[@]}") # the process that signals come to
}
