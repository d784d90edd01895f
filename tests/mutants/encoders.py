"""Faults in the encoders for long sources that their tests must notice."""

ROWS = "srformer_plugin/models/encoders/rows.py"
CHUNKED = "srformer_plugin/models/encoders/chunked.py"
SETTINGS = "srformer_plugin/models/encoders/settings.py"
WINDOW = "srformer_plugin/models/encoders/window.py"
MODEL = "srformer_plugin/models/segmented_model.py"
CHANGE = "srformer_plugin/models/change_attention.py"
POSITIONS = "srformer_plugin/compat/positions.py"

PACKED = "srformer_plugin/attention/packed.py"
PACKED_ENCODER = "srformer_plugin/models/packed_encoder.py"
PACKED_TESTS = "tests/attention/test_packed.py"
PACKED_ENCODER_TESTS = "tests/models/test_packed_encoder.py"

CHUNKED_TESTS = "tests/models/encoders/test_chunked.py"
WINDOW_TESTS = "tests/models/encoders/test_window_encoder.py"
LENGTH_TESTS = "tests/compat/test_any_length.py"
CHANGE_TESTS = "tests/convert/test_change_attention.py"

MUTANTS = [
    {
        "file": ROWS,
        "old": "start = min(number * stride, length - width)",
        "new": "start = number * stride",
        "tests": f"{CHUNKED_TESTS} -k kept_once_with",
    },
    {  # the question takes no room from the chunk
        "file": ROWS,
        "old": "stride = chunk - question",
        "new": "stride = chunk",
        "tests": f"{CHUNKED_TESTS} -k kept_once_with",
    },
    {
        "file": CHUNKED,
        "old": "tokens = row.tokens() + start\n",
        "new": "tokens = row.tokens()\n",
        "tests": f"{CHUNKED_TESTS} -k whatever_the_batch",
    },
    {  # what is short is cut as if it were long: its context would be the neighbour's padding
        "file": CHUNKED,
        "old": "masked_fill(read < 0, self.padding_idx)",
        "new": "masked_fill(read < -1, self.padding_idx)",
        "tests": f"{CHUNKED_TESTS} -k whatever_the_batch",
    },
    {
        "file": CHUNKED,
        "old": "for part in (rows[:full], rows[full:]):",
        "new": "for part in (rows,):",
        "tests": f"{CHUNKED_TESTS} -k portions",
    },
    {  # all rows at once in inference
        "file": CHUNKED,
        "old": "if torch.is_grad_enabled():\n            yield rows",
        "new": "if True:\n            yield rows",
        "tests": f"{CHUNKED_TESTS} -k square",
    },
    {
        "file": CHUNKED,
        "old": "if length <= self.chunk // 2:",
        "new": "if length <= self.chunk:",
        "tests": f"{CHUNKED_TESTS} -k too_long",
    },
    {  # the last symbol instead of the first
        "file": CHUNKED,
        "old": "torch.where(found.any(dim=1), found.byte().argmax(dim=1) + 1, 0)",
        "new": "torch.where(found.any(dim=1), length - found.flip(1).byte().argmax(dim=1), 0)",
        "tests": f"{CHUNKED_TESTS} -k question_stands",
    },
    {
        "file": SETTINGS,
        "old": "self.encoder_chunk = self.encoder_positions - contexts",
        "new": "self.encoder_chunk = self.encoder_positions",
        "tests": f"{CHUNKED_TESTS} -k left_open",
    },
    {
        "file": WINDOW,
        "old": "            current_rate(self.dropout_module),\n",
        "new": "            0.0,\n",
        "tests": f"{WINDOW_TESTS} -k training_step",
    },
    {
        "file": WINDOW,
        "old": "state.update({key: state[original].clone()",
        "new": "state.update({key: torch.zeros_like(state[original])",
        "tests": f"{WINDOW_TESTS} -k bart_starts",
    },
    {
        "file": MODEL,
        "old": "            open_source_limit(args, task)\n",
        "new": "            pass\n",
        "tests": f"{LENGTH_TESTS} -k whole",
    },
    {  # a limit of training that is fairseq's default is forgotten in decoding
        "file": MODEL,
        "old": " and not is_of_checkpoint(task)",
        "new": "",
        "tests": f"{LENGTH_TESTS} -k limited_to",
    },
    {  # a limit of training becomes one that cannot be raised
        "file": POSITIONS,
        "old": "trained = min(current, possible)",
        "new": "trained = min(current, trained)",
        "tests": f"{LENGTH_TESTS} -k limited_to",
    },
    {
        "file": CHANGE,
        "old": "limit = positions if limit == ANY_LENGTH else limit",
        "new": "pass",
        "tests": f"{CHANGE_TESTS} -k way_back",
    },
    {
        "file": CHANGE,
        "old": "cfg.task.max_source_positions = model.max_source_positions",
        "new": "pass",
        "tests": f"{CHANGE_TESTS} -k any_length",
    },
    {  # sentences of one length are one sentence
        "file": PACKED,
        "old": "x.unflatten(0, (count, length))",
        "new": "x.unflatten(0, (1, count * length))",
        "tests": f"{PACKED_TESTS} -k attends_to_itself",
    },
    {  # asked for by fairseq's BART in every training step
        "file": "srformer_plugin/models/srformer_bart.py",
        "old": "token_embeddings, return_all_hiddens, alignment_layer",
        "new": "token_embeddings, True, alignment_layer",
        "tests": f"{PACKED_ENCODER_TESTS} -k models_training_packs",
    },
    {
        "file": PACKED_ENCODER,
        "old": "if return_all_hiddens or self.return_fc or not",
        "new": "if self.return_fc or not",
        "tests": f"{PACKED_ENCODER_TESTS} -k states_of_all_layers",
    },
]
