"""Faults in window attention, LED and its conversion that their tests must notice."""

WINDOW = "srformer_plugin/models/encoders/window_attention.py"
ENCODER = "srformer_plugin/models/encoders/window.py"
SYMBOLS = "srformer_plugin/models/encoders/symbols.py"
LED = "srformer_plugin/models/encoders/led.py"
MODEL = "srformer_plugin/models/srformer_led.py"
CONVERT = "srformer_plugin/convert/led.py"
SUBWORDS = "srformer_plugin/compat/subwords.py"
CLI = "srformer_plugin/convert/cli.py"
RENAME = "srformer_plugin/convert/rename.py"

WINDOW_TESTS = "tests/models/encoders/test_window_attention.py"
ENCODER_TESTS = "tests/models/encoders/test_window_encoder.py"
MODEL_TESTS = "tests/models/test_led.py"
PRIMERA_TESTS = "tests/convert/test_primera.py"
CONVERT_TESTS = "tests/convert/test_led.py"

MUTANTS = [
    {  # global tokens are counted twice where the window holds them
        "file": WINDOW,
        "old": "neighbours = ~(padding | global_tokens.marks)",
        "new": "neighbours = ~padding",
        "tests": f"{WINDOW_TESTS} -k references",
    },
    {
        "file": WINDOW,
        "old": "near = neighbours.unsqueeze(2) & (distance.abs() <= window)",
        "new": "near = neighbours.unsqueeze(2) & (distance.abs() < window)",
        "tests": f"{WINDOW_TESTS} -k references",
    },
    {
        "file": WINDOW,
        "old": "(torch.cat((first, near), dim=3) | idle)",
        "new": "torch.cat((first, near), dim=3)",
        "tests": f"{WINDOW_TESTS} -k nothing",
    },
    {
        "file": WINDOW,
        "old": "read = ~padding | padding.all(dim=1, keepdim=True)",
        "new": "read = torch.ones_like(padding)",
        "tests": f"{WINDOW_TESTS} -k references",
    },
    {
        "file": WINDOW,
        "old": "~padding | padding.all(dim=1, keepdim=True)",
        "new": "~padding",
        "tests": f"{WINDOW_TESTS} -k nothing",
    },
    {
        "file": WINDOW,
        "old": "    return output.masked_fill(padding[:, None, :, None], 0)\n",
        "new": "    return output\n",
        "tests": f"{WINDOW_TESTS} -k references",
    },
    {
        "file": WINDOW,
        "old": "(~marks).byte().argsort(dim=1, stable=True)[:, :count]",
        "new": "torch.arange(padding.size(1), device=padding.device).expand_as(padding)[:, :count]",
        "tests": f"{WINDOW_TESTS} -k 'wherever or first_tokens'",
    },
    {  # padding that has the symbol's number would be read
        "file": WINDOW,
        "old": "marks = marks | (tokens & chosen)",
        "new": "marks = marks | chosen",
        "tests": f"{WINDOW_TESTS} -k wherever",
    },
    {  # without a global token its projections get no gradients
        "file": WINDOW,
        "old": "count = max(int(marks.sum(dim=1).max()), 1)",
        "new": "count = int(marks.sum(dim=1).max())",
        "tests": f"{ENCODER_TESTS} -k without_the_symbol",
    },
    {  # what fills up a sentence with fewer global tokens reads as if it were one
        "file": WINDOW,
        "old": "by_global = torch.where(real[:, None, :, None], by_global, _take(output, places))",
        "new": "pass",
        "tests": f"{WINDOW_TESTS} -k references",
    },
    {  # ... and is read by all
        "file": WINDOW,
        "old": "first = global_tokens.real[:, None, None]",
        "new": "first = torch.ones_like(global_tokens.real)[:, None, None]",
        "tests": f"{WINDOW_TESTS} -k references",
    },
    {
        "file": ENCODER,
        "old": "chosen = None if self.global_index is None else",
        "new": "chosen = None if True else",
        "tests": f"{ENCODER_TESTS} -k whatever_the_batch",
    },
    {
        "file": SYMBOLS,
        "old": "if symbol not in dictionary:",
        "new": "if False:",
        "tests": f"{ENCODER_TESTS} -k not_in_the_dictionary",
    },
    {
        "file": MODEL,
        "old": 'if hasattr(args, "encoder_global_symbol"):',
        "new": "if False:",
        "tests": f"{MODEL_TESTS} -k resumed",
    },
    {
        "file": WINDOW,
        "old": "keys_of_blocks(value), mask, dropout_p=dropout",
        "new": "keys_of_blocks(value), mask",
        "tests": f"{WINDOW_TESTS} -k dropout",
    },
    {
        "file": WINDOW,
        "old": "read[:, None, None], dropout_p=dropout",
        "new": "read[:, None, None]",
        "tests": f"{WINDOW_TESTS} -k dropout",
    },
    {
        "file": WINDOW,
        "old": "block = min(block or max(window, SMALLEST_BLOCK), length)",
        "new": "block = length",
        "tests": f"{WINDOW_TESTS} -k memory",
    },
    {
        "file": LED,
        "old": "return [window // 2 for window in",
        "new": "return [window for window in",
        "tests": f"{MODEL_TESTS} -k on_either_side",
    },
    {
        "file": ENCODER,
        "old": "self.windows(cfg, len(attentions)), strict=True",
        "new": "self.windows(cfg, len(attentions))[::-1], strict=True",
        "tests": f"{CONVERT_TESTS} -k 'logits and default'",
    },
    {
        "file": ENCODER,
        "old": "self._heads(self.global_k_proj(query)),",
        "new": "self._heads(self.k_proj(query)),",
        "tests": f"{CONVERT_TESTS} -k 'logits and default'",
    },
    {
        "file": ENCODER,
        "old": "chosen = query.gather(0, places.T.unsqueeze(2).expand(-1, -1, query.size(2)))",
        "new": "chosen = query[: places.size(1)]",
        "tests": f"{MODEL_TESTS} -k side_of_its_padding",
    },
    {
        "file": ENCODER,
        "old": "current_rate(self.dropout_module),",
        "new": "0.0,",
        "tests": f"{MODEL_TESTS} -k dropout",
    },
    {
        "file": ENCODER,
        "old": "if any(key in state for key in missing) or",
        "new": "if",
        "tests": f"{MODEL_TESTS} -k damaged",
    },
    {
        "file": LED,
        "old": "window < 2 or window % 2 != 0",
        "new": "window % 2 != 0",
        "tests": f"{MODEL_TESTS} -k refused_before",
    },
    {
        "file": MODEL,
        "old": "windows[number] for number in sorted(map(int, numbers))",
        "new": "windows[number] for number in range(len(numbers))",
        "tests": f"{MODEL_TESTS} -k pruned",
    },
    {
        "file": MODEL,
        "old": "if encoder not in ENCODERS:",
        "new": "if False:",
        "tests": f"{MODEL_TESTS} -k another_encoder",
    },
    {
        "file": MODEL,
        "old": "kind = encoder_class(args.encoder_attention, LEDEncoder)",
        "new": "kind = LEDEncoder",
        "tests": f"{MODEL_TESTS} -k chunks",
    },
    {
        "file": CONVERT,
        "old": "shape=(positions - POSITIONS_BEFORE_THE_FIRST, width), reserved=POSITIONS_BEFORE_THE_FIRST",
        "new": "shape=(positions, width)",
        "tests": f"{CONVERT_TESTS} -k identity_for_every",
    },
    {
        "file": CONVERT,
        "old": 'f"longformer_self_attn.{name}_global"',
        "new": 'f"longformer_self_attn.{name}"',
        "tests": f"{CONVERT_TESTS} -k identity_for_every",
    },
    {
        "file": CONVERT,
        "old": "GLOBAL_TOKEN if token is None else token",
        "new": "token or GLOBAL_TOKEN",
        "tests": f"{PRIMERA_TESTS} -k named",
    },
    {
        "file": CONVERT,
        "old": "if token and token not in called:",
        "new": "if False:",
        "tests": f"{PRIMERA_TESTS} -k one_error",
    },
    {
        "file": SUBWORDS,
        "old": "keeping(added, lambda",
        "new": "keeping({}, lambda",
        "tests": "tests/summarize/test_global_tokens.py",
    },
    {
        "file": CLI,
        "old": "elif global_token is not None:",
        "new": "elif False:",
        "tests": f"{PRIMERA_TESTS} -k one_error",
    },
    {
        "file": CONVERT,
        "old": 'check_config(config, {"scale_embedding": False}, "LED")',
        "new": "pass",
        "tests": f"{CONVERT_TESTS} -k does_not_fit",
    },
    {
        "file": CONVERT,
        "old": 'if not options["no_scale_embedding"]:',
        "new": "if False:",
        "tests": f"{CONVERT_TESTS} -k scaled",
    },
    {
        "file": CONVERT,
        "old": '"attention_window": parse_windows(options["attention_window"], options["encoder_layers"]),',
        "new": '"attention_window": WINDOW,',
        "tests": f"{CONVERT_TESTS} -k identity",
    },
    {
        "file": RENAME,
        "old": "torch.cat((rows.new_zeros(p.reserved, *rows.shape[1:]), rows))",
        "new": "torch.cat((rows, rows.new_zeros(p.reserved, *rows.shape[1:])))",
        "tests": f"{CONVERT_TESTS} -k 'logits and default'",
    },
    {
        "file": RENAME,
        "old": "weights[p.huggingface] = weights[p.huggingface][p.reserved :]",
        "new": "weights[p.huggingface] = weights[p.huggingface][: -p.reserved]",
        "tests": f"{CONVERT_TESTS} -k identity_for_every",
    },
]
