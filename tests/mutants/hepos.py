"""Faults in the heads' positional strides that tests must notice."""

HEPOS = "srformer_plugin/attention/hepos.py"
CONTEXT = "srformer_plugin/attention/source_context.py"
HEPOS_TESTS = "tests/attention/test_hepos.py"
DECODER = "srformer_plugin/models/segmented_decoder.py"

MUTANTS = [
    {  # every head reads the slot of another one
        "file": HEPOS,
        "old": "weight = projection.weight.unflatten(0, heads).permute(1, 3, 0, 2)",
        "new": "weight = projection.weight.unflatten(0, heads).flip(1).permute(1, 3, 0, 2)",
        "tests": f"{HEPOS_TESTS} -k with_a_mask",
    },
    {  # so does the bias of its keys and values
        "file": HEPOS,
        "old": "projection.bias.view(heads).transpose(0, 1)",
        "new": "projection.bias.view(heads).flip(1).transpose(0, 1)",
        "tests": f"{HEPOS_TESTS} -k with_a_mask",
    },
    {  # and what only a module knows
        "file": HEPOS,
        "old": "projection(cut).unflatten(3, heads)",
        "new": "projection(cut).unflatten(3, heads).flip(4)",
        "tests": f"{HEPOS_TESTS} -k hook",
    },
    {  # hooks are not called
        "file": HEPOS,
        "old": "        if is_bare(projection):\n",
        "new": "        if True:\n",
        "tests": f"{HEPOS_TESTS} -k hook",
    },
    {  # padding of the slot of another head is hidden
        "file": CONTEXT,
        "old": "mask = ~mask.transpose(1, 2).repeat(1,",
        "new": "mask = ~mask.transpose(1, 2).flip(1).repeat(1,",
        "tests": f"{HEPOS_TESTS} -k with_a_mask",
    },
    {  # states without gradients are handed to layers that are computed anew
        "file": CONTEXT,
        "old": "        how = layout.segment_size, torch.is_grad_enabled()\n",
        "new": "        how = (layout.segment_size,)\n",
        "tests": f"{HEPOS_TESTS} -k once_for_all_layers",
    },
    {  # all of the source is projected
        "file": DECODER,
        "old": "if any(isinstance(attention, HeposCrossAttention) for attention in attentions):",
        "new": "if False:",
        "tests": "tests/models/test_source_projections.py -k project_for_themselves",
    },
    {  # a stride for which there are not the heads
        "file": "srformer_plugin/models/change_attention.py",
        "old": "    check_head_stride(settings, stored.decoder_attention_heads)\n",
        "new": "",
        "tests": "tests/convert/test_change_attention.py -k refused_by_name",
    },
    {  # a run with another stride than the checkpoint's
        "file": "srformer_plugin/models/schedule_record.py",
        "old": '        fields.append("head_stride")\n',
        "new": "        pass\n",
        "tests": "tests/models/test_content_models.py -k other_tokens",
    },
]
