#!/usr/bin/env bash
# arXiv: 203,037 papers with their abstracts; PubMed: 119,924.
# shellcheck source=recipes/summarization.sh
source "$(dirname "${BASH_SOURCE[0]}")/summarization.sh"

NAME=arxiv FORMAT=arxiv
TITLE="arXiv or PubMed, from Cohan et al.'s JSON lines to ROUGE."
OPTIONS="dataset|arxiv,pubmed|arxiv|which of the two"
read_table
# Decoding: that of Huang et al. 2021, "Efficient Attentions for Long Document Summarization", a fairseq BART for long
# documents (beam 4, length penalty 2, at least 100 tokens, no trigram twice). Theirs may grow to 800 tokens; the
# SRformer paper's targets have at most 128. For whole abstracts: --max-target 512 --max-len 512.
defaults --beam 4 --lenpen 2 --min-len 100 --max-len 128 --no-repeat 3

configure() { NAME=${OPT[dataset]} FORMAT=${OPT[dataset]}; }

download_raw() {
  local file sha256=82ed30dd7c66a6497eeb3d7c3090c274e9e32c012438f8e0bb3cce3e6c1fcada
  [[ $FORMAT == arxiv ]] || sha256=d424074726a5e29e20bf834055fe7efe90f8a37bce0a2b512e4ab7e487013c04
  fetch_archive "${OPT[raw]}" "$FORMAT-dataset" \
    "https://s3.amazonaws.com/datasets.huggingface.co/scientific_papers/1.1.1/$FORMAT-dataset.zip" "$sha256"
  for file in train.txt val.txt test.txt; do run ln -sf "$FORMAT-dataset/$file" "${OPT[raw]}/$file"; done
}

main "$@"
