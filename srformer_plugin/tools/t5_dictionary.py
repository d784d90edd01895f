"""Write the fairseq dictionary of a T5 tokenizer.

    python -m srformer_plugin.tools.t5_dictionary SPIECE_MODEL OUT_DICT

With it, stock fairseq works on T5's own SentencePiece model: encode text with it (`--bpe sentencepiece` in
fairseq-interactive and fairseq-generate), then `fairseq-preprocess --srcdict OUT_DICT --joined-dictionary` and
`--task translation`. The ids are T5's plus one (`t5_row_of_fairseq_id` says why and what it does to the embeddings):

    fairseq            0     1       2      3       4 ...            ... then         ... up to the embedding's rows
    token              <s>   <pad>   </s>   <unk>   T5's pieces      <extra_id_99> to <extra_id_0>   madeupwordNNNN

The sentinels `<extra_id_N>` are in the dictionary, in T5's order, and not in the SentencePiece model: they stand for
themselves in encoded text, but `--bpe sentencepiece` does not find them in raw text.
"""

import argparse
import sys
from pathlib import Path

from data_prep.arguments import positive
from data_prep.errors import command
from data_prep.whole import refuse_to_replace, whole_file

from ..convert.t5_dictionary import t5_dictionary


@command
def main(argv=None):
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m srformer_plugin.tools.t5_dictionary", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("spiece_model", help="SentencePiece model of the T5 tokenizer")
    parser.add_argument("out_dict", help="dictionary to write")
    parser.add_argument(
        "--rows", type=positive, help="rows of the model's embedding (default: 32,128 for T5's tokenizer)"
    )
    options = parser.parse_args(argv)
    refuse_to_replace("out_dict", options.out_dict, [options.spiece_model])
    dictionary = t5_dictionary(options.spiece_model, options.rows)
    out = Path(options.out_dict)
    out.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(out) as file:
        dictionary.save(file)
    print(f"{out}: {len(dictionary):,} tokens")


if __name__ == "__main__":
    sys.exit(main())
