#!/usr/bin/env bash
# CNN/DailyMail: 287,113 news articles with their highlights.
# shellcheck source=recipes/summarization.sh
source "$(dirname "${BASH_SOURCE[0]}")/summarization.sh"

NAME=cnn_dailymail FORMAT=cnn_dailymail
TITLE="CNN/DailyMail, from .story files and url lists to ROUGE."
read_table
# Decoding: fairseq's examples/bart/README.summarization.md.
defaults --beam 4 --lenpen 2 --min-len 55 --max-len 140 --no-repeat 3

download_raw() {
  local stories=https://huggingface.co/datasets/cnn_dailymail/resolve/11343c3752184397d56efc19a8a7cceb68089318/data
  local lists=https://raw.githubusercontent.com/abisee/cnn-dailymail/master/url_lists
  fetch_archive "${OPT[raw]}" cnn $stories/cnn_stories.tgz \
    e8fbc0027e54e0a916abd9c969eb35f708ed1467d7ef4e3b17a56739d65cb200
  fetch_archive "${OPT[raw]}" dailymail $stories/dailymail_stories.tgz \
    ad69010002210b7c406718248ee66e65868b9f6820f163aa966369878d14147e
  fetch "${OPT[raw]}/all_train.txt" $lists/all_train.txt \
    a5cee49f3a6c862c26ce29308236d2a99625ab6c86a43be22d5206b2790d8029
  fetch "${OPT[raw]}/all_val.txt" $lists/all_val.txt \
    81887e982b045083409c6ee838aede8ff4b97291605bcfb21bffc456a16991db
  fetch "${OPT[raw]}/all_test.txt" $lists/all_test.txt \
    c4f5efb5ec2126430a5c156efbd13d0e9c4cb490169e552c38b4a51981a009bd
}

main "$@"
