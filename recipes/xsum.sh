#!/usr/bin/env bash
# XSum: 204,045 BBC articles with a summary of one sentence.
# shellcheck source=recipes/summarization.sh
source "$(dirname "${BASH_SOURCE[0]}")/summarization.sh"

NAME=xsum FORMAT=xsum
TITLE="XSum, from .summary files and the official split to ROUGE."
read_table
# Decoding: fairseq's examples/bart/README.summarization.md.
defaults --beam 6 --lenpen 1 --min-len 10 --max-len 60 --no-repeat 3

download_raw() {
  fetch_archive "${OPT[raw]}" bbc-summary-data \
    http://bollin.inf.ed.ac.uk/public/direct/XSUM-EMNLP18-Summary-Data-Original.tar.gz \
    10b48aa187fc9c904b30f76ca97e2da0de8d3a1238acc26acadef93e2001af90
  fetch "${OPT[raw]}/XSum-TRAINING-DEV-TEST-SPLIT-90-5-5.json" \
    https://raw.githubusercontent.com/EdinburghNLP/XSum/master/XSum-Dataset/XSum-TRAINING-DEV-TEST-SPLIT-90-5-5.json \
    9c0c5d8f048a90bd68b19a34e4c30577ed270d3247b2119fa06a04ef46292068
}

main "$@"
