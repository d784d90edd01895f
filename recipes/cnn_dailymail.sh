#!/usr/bin/env bash
# CNN/DailyMail, 287,113 news articles with their highlights: from .story files and url lists to ROUGE.
# What is in capitals is an option: --help lists them; --dry-run prints the commands with their values.
# shellcheck source=recipes/recipe.sh disable=SC2154 # variables that `options` sets
source "$(dirname "${BASH_SOURCE[0]}")/recipe.sh"
# decoding: fairseq's examples/bart/README.summarization.md
options cnn_dailymail --beam 4 --lenpen 2 --min-len 55 --max-len 140 --no-repeat 3 -- "$@"

stage download "raw files and published weights" --always
if raw_is_wanted; then
  stories=https://huggingface.co/datasets/cnn_dailymail/resolve/11343c3752184397d56efc19a8a7cceb68089318/data
  lists=https://raw.githubusercontent.com/abisee/cnn-dailymail/master/url_lists
  fetch_archive "$RAW" cnn $stories/cnn_stories.tgz e8fbc0027e54e0a916abd9c969eb35f708ed1467d7ef4e3b17a56739d65cb200
  fetch_archive "$RAW" dailymail $stories/dailymail_stories.tgz \
    ad69010002210b7c406718248ee66e65868b9f6820f163aa966369878d14147e
  fetch "$RAW/all_train.txt" $lists/all_train.txt a5cee49f3a6c862c26ce29308236d2a99625ab6c86a43be22d5206b2790d8029
  fetch "$RAW/all_val.txt" $lists/all_val.txt 81887e982b045083409c6ee838aede8ff4b97291605bcfb21bffc456a16991db
  fetch "$RAW/all_test.txt" $lists/all_test.txt c4f5efb5ec2126430a5c156efbd13d0e9c4cb490169e552c38b4a51981a009bd
fi
run python -m recipes.fetch published "$PRETRAINED" "${PUBLISHED[@]}"

stage prepare "CNN/DailyMail -> a document a line" --folder corpus
run python -m data_prep.prepare cnn_dailymail "$RAW" "$OUT/corpus" --splits "${SPLITS[@]}" \
  [ --workers "$WORKERS" ] "${PREPARE_ARGS[@]}"

stage encode "texts -> $BPE subwords, cut to $MAX_SOURCE and $MAX_TARGET" --folder encoded
run python -m data_prep.encode "$OUT/corpus" "$OUT/encoded" --bpe "$BPE" "${SUBWORDS[@]}" \
  --max-source "$MAX_SOURCE" --max-target "$MAX_TARGET" [ --workers "$WORKERS" ] "${ENCODE_ARGS[@]}"

stage binarise "fairseq-preprocess" --folder data
[[ -z $T5_DICTIONARY ]] || run python -m srformer_plugin.tools.t5_dictionary "$SPIECE" "$OUT/data/t5.dict.txt"
run fairseq-preprocess --source-lang source --target-lang target "${DICTIONARY[@]}" "${PREFIXES[@]}" \
  --destdir "$OUT/data" [ --workers "$WORKERS" ] "${BINARISE_ARGS[@]}"

stage train "$ARCH, $LENGTH of $BATCH_SIZE documents an update: ${SHARE[*]}" --after binarise --resumable
counts fairseq-train --batch-size "$BATCH_SIZE" --for "$LENGTH"
run [ "${TRAINER[@]}" ] "$DATA/data" --user-dir srformer_plugin --task summarization --arch "$ARCH" "${ATTENTION[@]}" \
  "${START[@]}" "${TRAINING_MACHINE[@]}" --max-source-positions "$MAX_SOURCE" --dropout "$DROPOUT" \
  --attention-dropout "$DROPOUT" --criterion fused_label_smoothed_cross_entropy --label-smoothing "$LABEL_SMOOTHING" \
  --optimizer fused_adam --adam-betas '(0.9, 0.999)' --adam-eps 1e-08 --weight-decay 0.01 --clip-norm "$CLIP_NORM" \
  --lr "$LR" --lr-scheduler polynomial_decay --warmup-updates "$WARMUP_UPDATES" --required-batch-size-multiple 1 \
  [ --total-num-update "$UPDATES" --max-update "$UPDATES" "${SHARE[@]}" ] --seed "$SEED" \
  --eval-rouge --eval-rouge-args "{\"beam\": 1, \"max_len_b\": $MAX_TARGET}" "${VALIDATION_TEXT[@]}" \
  --best-checkpoint-metric rouge1 --maximize-best-checkpoint-metric --validate-interval-updates "$VALIDATE_EVERY" \
  --save-interval-updates "$VALIDATE_EVERY" --keep-interval-updates 1 --no-epoch-checkpoints --save-dir "$OUT/train" \
  --log-format json --log-interval 50 --log-file "$OUT/train/train.log" "${TRAIN_ARGS[@]}"
run find "$OUT/train" -name 'checkpoint_*_*.pt' -delete # the last and the best checkpoint stay

stage generate "beam search over $EVALUATED, checkpoint_$CHECKPOINT.pt"
run fairseq-generate "$DATA/data" --user-dir srformer_plugin --task summarization --gen-subset "$EVALUATED" \
  --path "$OUT/train/checkpoint_$CHECKPOINT.pt" --results-path "$OUT/generate" "${DECODING_MACHINE[@]}" \
  --max-source-positions "$MAX_SOURCE" --beam "$BEAM" --lenpen "$LENPEN" --min-len "$MIN_LEN" --max-len-a 0 \
  --max-len-b "$MAX_LEN" --no-repeat-ngram-size "$NO_REPEAT" --batch-size "$GENERATE_BATCH_SIZE" \
  "${DECODING_TEXT[@]}" --seed "$SEED" --log-format simple "${GENERATE_ARGS[@]}"

stage score "ROUGE against the raw references"
run srformer-score "$OUT/generate/generate-$EVALUATED.txt" "$DATA/corpus/$EVALUATED.target" --source \
  "$DATA/corpus/$EVALUATED.source" --save "$OUT/score" --per-example "$OUT/score/examples.jsonl" "${SCORE_ARGS[@]}"

carry_out "$OUT/score/score.txt"
