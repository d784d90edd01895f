"""Faults in the choice of segments, the memories of the softmax and switched checkpoints, that tests must notice."""

CONTENT = "srformer_plugin/attention/method/content.py"
MEMORY = "srformer_plugin/attention/method/memory.py"
SEGMENTS = "srformer_plugin/attention/method/segments.py"
CHOSEN = "srformer_plugin/attention/torch/chosen.py"
TORCH = "srformer_plugin/attention/torch/attend.py"
SETTINGS = "srformer_plugin/attention/settings.py"
CROSS_ATTENTION = "srformer_plugin/attention/cross_attention.py"
TRITON = "srformer_plugin/attention/triton/support.py"
CHANGE = "srformer_plugin/models/change_attention.py"
STATE = "srformer_plugin/models/checkpoint_state.py"

CONTENT_TESTS = "tests/attention/test_content.py"
CHANGE_TESTS = "tests/convert/test_change_attention.py"
MODEL_TESTS = "tests/models/test_content_models.py"
KERNEL_TESTS = "tests/attention/test_triton_content.py"

MUTANTS = [
    {
        "file": CONTENT,
        "old": "    if undecided.any():\n",
        "new": "    if False:\n",
        "tests": f"{CONTENT_TESTS} -k of_equal_scores",
    },
    {
        "file": CONTENT,
        "old": "return query.to(summaries.dtype) @ summaries.transpose(2, 3)",
        "new": "return query @ summaries.to(query.dtype).transpose(2, 3)",
        "tests": f"{CONTENT_TESTS} -k made_in_float32",
    },
    {
        "file": CONTENT,
        "old": "scores.masked_fill(beyond[:, None, None], -torch.inf)",
        "new": "scores",
        "tests": f"{CONTENT_TESTS} -k depend_on_its_batch",
    },
    {
        "file": SEGMENTS,
        "old": "return total / self.tokens.clamp(min=1)[:, None, :, None]",
        "new": "return total / self.segment_size",
        "tests": f"{CONTENT_TESTS} -k equal_the_reference",
    },
    {
        "file": SEGMENTS,
        "old": "share = (weights / self.tokens.clamp(min=1)[:, None, None]).unsqueeze(-1)",
        "new": "share = (weights / self.segment_size).unsqueeze(-1)",
        "tests": f"{CONTENT_TESTS} -k weights_are_on_the_source",
    },
    {
        "file": SEGMENTS,
        "old": ".permute(2, 0, 1), (own < 0).T",
        "new": ".permute(2, 0, 1), (own < -1).T",
        "tests": f"{CONTENT_TESTS} -k equal_the_reference",
    },
    {
        "file": SEGMENTS,
        "old": "        selected._kept_moves = {}\n",
        "new": "",
        "tests": "tests/attention/test_segments.py -k some_sentences",
    },
    {
        "file": MEMORY,
        "old": "keys.transpose(2, 3) + tokens.clamp(min=1).log()",
        "new": "keys.transpose(2, 3)",
        "tests": f"{CONTENT_TESTS} -k equal_the_reference",
    },
    {
        "file": MEMORY,
        "old": "attended | (tokens == 0)",
        "new": "attended",
        "tests": f"{CONTENT_TESTS} -k depend_on_its_batch",
    },
    {
        "file": MEMORY,
        "old": "before = torch.where(before < 0, before, segment)",
        "new": "before = segment",
        "tests": f"{CONTENT_TESTS} -k equal_the_reference",
    },
    {
        "file": MEMORY,
        "old": "torch.finfo(logits.dtype).min / 2)",
        "new": "-torch.inf)",
        "tests": f"{CONTENT_TESTS} -k equal_the_reference",
    },
    {
        "file": CHOSEN,
        "old": "first_more[segment] + place // size - 1)",
        "new": "first_more[segment])",
        "tests": f"{CONTENT_TESTS} -k tiles_equal_copies",
    },
    {
        "file": CHOSEN,
        "old": "weights.masked_fill_(~tiles.is_read, -torch.inf)",
        "new": "pass",
        "tests": f"{CONTENT_TESTS} -k tiles_equal_copies",
    },
    {
        "file": CHOSEN,
        "old": "common = upstream_log_sum - (",
        "new": "common = -(",
        "tests": f"{CONTENT_TESTS} -k tiles_equal_copies",
    },
    {
        "file": CHOSEN,
        "old": "            noise = noise * weights\n",
        "new": "            noise = noise.mul_(weights)\n",
        "tests": f"{CONTENT_TESTS} -k dropout",
    },
    {
        "file": TORCH,
        "old": "pooled = memory.joins_softmax\n",
        "new": "pooled = False\n",
        "tests": f"{CONTENT_TESTS} -k equal_the_reference",
    },
    {
        "file": TORCH,
        "old": '"segment_counts": None if plan.choice is None else layout.segment_counts',
        "new": '"segment_counts": None if plan.choice is None else layout.segment_counts + 1',
        "tests": f"{CONTENT_TESTS} -k whatever_the_beam",
    },
    {
        "file": CROSS_ATTENTION,
        "old": "plan = plan.decide(queries, saved",
        "new": "plan = plan.decide(queries[:, :, :1].expand_as(queries), saved",
        "tests": f"{CONTENT_TESTS} -k whatever_the_beam",
    },
    {
        "file": SETTINGS,
        "old": "if self.by_content and MEMORIES[self.cross_attention].needs_clock:",
        "new": "if False:",
        "tests": f"{CONTENT_TESTS} -k refused_by_name",
    },
    {
        "file": TRITON,
        "old": "if type(request.memory) is not NoMemory:",
        "new": "if False:",
        "tests": f"{KERNEL_TESTS} -k cannot_compute",
    },
    {
        "file": CHANGE,
        "old": "if settings.cross_attention != before:",
        "new": "if False:",
        "tests": f"{CHANGE_TESTS} -k leaves_with_another",
    },
    {
        "file": CHANGE,
        "old": "setattr(stored, name, None)\n",
        "new": "pass\n",
        "tests": f"{CHANGE_TESTS} -k left_open",
    },
    {
        "file": STATE,
        "old": '"segments_per_query", "segment_score", "head_stride"):',
        "new": '"segment_score", "head_stride"):',
        "tests": f"{MODEL_TESTS} -k other_segments",
    },
]
