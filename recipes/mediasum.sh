#!/usr/bin/env bash
# MediaSum: 463,596 interviews of NPR and CNN with their overviews or topics.
# shellcheck source=recipes/summarization.sh
source "$(dirname "${BASH_SOURCE[0]}")/summarization.sh"

NAME=mediasum FORMAT=mediasum
TITLE="MediaSum, from news_dialogue.json and the official split to ROUGE."
read_table
# Decoding: the authors' fairseq settings are not published. These are XSum's in fairseq, since summaries are as short.
defaults --beam 6 --lenpen 1 --min-len 10 --max-len 60 --no-repeat 3

download_raw() {
  fetch "${OPT[raw]}/train_val_test_split.json" \
    https://raw.githubusercontent.com/zcgzcgzcg1/MediaSum/main/data/train_val_test_split.json
  if [[ $DRY_RUN == 1 ]]; then
    echo "# by hand: news_dialogue.json of https://drive.google.com/file/d/1ZAKZM1cGhEw2A4_n4bGGMYyF8iPjLZni/view"
  elif [[ ! -e ${OPT[raw]}/news_dialogue.json ]]; then
    by_hand "${OPT[raw]}/news_dialogue.json" \
      "https://drive.google.com/file/d/1ZAKZM1cGhEw2A4_n4bGGMYyF8iPjLZni/view (in a browser; news_dialogue.json of the zip)"
  fi
}

main "$@"
