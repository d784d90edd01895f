#!/usr/bin/env bash
# Your own documents and summaries.
# shellcheck source=recipes/summarization.sh
source "$(dirname "${BASH_SOURCE[0]}")/summarization.sh"

NAME=custom FORMAT=lines
TITLE="Your own data to ROUGE: {train,valid,test}.{source,target} in --raw, a text a line; or, with --source-field and
--target-field, {train,valid,test}*.{jsonl,csv,tsv,parquet}. Any other format of data_prep.prepare with --format."
OPTIONS="format|TEXT||of data_prep.prepare (fields with --source-field, else lines)
name|TEXT|custom|of the experiment
source-field|TEXT||field with the document
target-field|TEXT||field with the summary
id-field|TEXT||field with an identifier"
read_table

configure() {
  local name
  NAME=${OPT[name]}
  FORMAT=${OPT[format]:-lines}
  for name in source-field target-field id-field; do
    [[ -z ${OPT[$name]} ]] || READER_ARGS+=("--$name" "${OPT[$name]}")
  done
  if ((${#READER_ARGS[@]})); then
    FORMAT=fields
    [[ -n ${OPT[source-field]} && -n ${OPT[target-field]} ]] || die "give --source-field and --target-field together"
  fi
}

download_raw() { [[ $DRY_RUN == 1 ]] || die "--raw ${OPT[raw]}: your data must be there"; }

main "$@"
