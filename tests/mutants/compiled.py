"""Faults in compiled layers and in full attention by fused kernels that their tests must notice."""

LAYERS = "srformer_plugin/models/compiled.py"
FUSED = "srformer_plugin/attention/fused.py"
CAUSAL = "srformer_plugin/attention/causal.py"
SHARED = "srformer_plugin/attention/shared_by_beams.py"
MODEL = "srformer_plugin/models/segmented_model.py"

LAYER_TESTS = "tests/models/test_compiled.py"
TRAINING_TESTS = "tests/models/test_compiled_training.py"
BART_TESTS = "tests/models/test_srformer_bart.py"
FUSED_TESTS = "tests/attention/test_fused.py"

MUTANTS = [
    {
        "file": LAYERS,
        "old": "    x = residual + dropout(branch)\n",
        "new": "    x = residual + branch\n",
        "tests": f"{LAYER_TESTS} -k same_seed",
    },
    {
        "file": LAYERS,
        "old": "activation_dropout(activation(fc1(states)))",
        "new": "activation(fc1(states))",
        "tests": f"{LAYER_TESTS} -k same_seed",
    },
    {
        "file": LAYERS,
        "old": "    states = final_norm(x) if normalize_before else x\n",
        "new": "    states = x\n",
        "tests": f"{LAYER_TESTS} -k plain_layers",
    },
    {
        "file": LAYERS,
        "old": "torch.ops.aten._unsafe_view(x.contiguous(), (-1, x.size(-1)))",
        "new": "x.reshape(-1, x.size(-1))",
        "tests": f"{LAYER_TESTS} -k compiles_anew",
    },
    {
        "file": LAYERS,
        "old": "backend=backend, dynamic=True",
        "new": "backend=backend",
        "tests": f"{LAYER_TESTS} -k compiles_anew",
    },
    {
        "file": LAYERS,
        "old": "limit_name(): MOST_VARIANTS, ",
        "new": "",
        "tests": f"{LAYER_TESTS} -k variants",
    },
    {
        "file": LAYERS,
        "old": "    forward = functools.partial(function, layer, compiled)\n",
        "new": "    forward = lambda *a, **k: function(layer, compiled, *a, **k)  # noqa: E731\n",
        "tests": f"{LAYER_TESTS} -k copy",
    },
    {
        "file": LAYERS,
        "old": "        forward = functools.partial(wrapper.func, forward, *wrapper.args[1:], **wrapper.keywords)\n",
        "new": "        forward = wrapper\n",
        "tests": f"{LAYER_TESTS} -k checkpointing",
    },
    {
        "file": LAYERS,
        "old": "    if not (incremental_state is None and prev_self_attn_state is None and prev_attn_state is None):\n",
        "new": "    if prev_self_attn_state is not None:\n",
        "tests": f"{LAYER_TESTS} -k step_by_step",
    },
    {
        "file": MODEL,
        "old": "        args.compile = False",
        "new": "        args.compile = compiled",
        "tests": f"{TRAINING_TESTS} -k does_not_know",
    },
    {
        "file": SHARED,
        "old": "        if self.training and incremental_state is None",
        "new": "        if incremental_state is None",
        "tests": f"{FUSED_TESTS} -k evaluation",
    },
    {
        "file": SHARED,
        "old": "        if self.training and incremental_state is None",
        "new": "        if self.training and incremental_state is not None",
        "tests": f"{FUSED_TESTS} -k all_sources",
    },
    {
        "file": SHARED,
        "old": "padding and padding.bias, dropout, self.scaling)",
        "new": "padding and padding.bias, 0.0, self.scaling)",
        "tests": f"{FUSED_TESTS} -k dropout",
    },
    {
        "file": FUSED,
        "old": "masked_fill_(padding_mask, lowest(like.dtype))",
        "new": "masked_fill_(padding_mask, -1.0)",
        "tests": f"{FUSED_TESTS} -k are_fairseqs",
    },
    {
        "file": FUSED,
        "old": "    if width % BIAS_ALIGNMENT == 0:\n",
        "new": "    if width > 0:\n",
        "tests": f"{FUSED_TESTS} -k aligned",
    },
    {
        "file": CAUSAL,
        "old": "causal=True",
        "new": "causal=False",
        "tests": f"{FUSED_TESTS} -k came_before",
    },
    {
        "file": CAUSAL,
        "old": "if self.training and attn_mask is not None",
        "new": "if attn_mask is not None",
        "tests": f"{FUSED_TESTS} -k targets_in_evaluation",
    },
    {
        "file": "srformer_plugin/models/segmented_decoder.py",
        "old": "return attend_without_masks(super()",
        "new": "return (super()",
        "tests": f"{BART_TESTS} -k masks_of_every_head",
    },
]
