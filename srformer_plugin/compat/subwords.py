"""GPT-2's BPE with tokens that were added to its vocabulary."""

from fairseq.data.encoders.gpt2_bpe import GPT2BPE

from data_prep.added_tokens import keeping
from data_prep.gpt2_bpe import END_OF_TEXT, added_tokens

from .patching import wrap


def keep_added_tokens():
    """Keep the tokens that `encoder.json` has after <|endoftext|> whole in a text, as `data_prep.encode` does.

    ``data/encoders/gpt2_bpe.py:36`` decodes them, and encodes a text as if they were not there: a model never sees them
    in raw text, as PRIMERA's <doc-sep>. Not needed when `GPT2BPE.encode` gives the number of an added token.
    """
    wrap(GPT2BPE, "encode", _whole)


def _whole(original):
    def encode(self, x):
        if "srformer_pieces" not in vars(self):
            numbers = self.bpe.encoder
            added = added_tokens(numbers, numbers.get(END_OF_TEXT, len(numbers)))
            added = {token: str(number) for token, number in added.items()}
            self.srformer_pieces = keeping(added, lambda text: original(self, text).split())
        return " ".join(self.srformer_pieces(x))

    return encode
