"""Faults in window attention, LED and its conversion that their tests must notice."""

WINDOW = "srformer_plugin/models/encoders/window_attention.py"

WINDOW_TESTS = "tests/models/encoders/test_window_attention.py"

MUTANTS = [
    {  # global tokens are counted twice where the window holds them
        "file": WINDOW,
        "old": "neighbours = ~padding.scatter(1, places, True)",
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
        "old": "padding.byte().argsort(dim=1, stable=True)[:, :num_global]",
        "new": "torch.arange(padding.size(1), device=padding.device).expand_as(padding)[:, :num_global]",
        "tests": f"{WINDOW_TESTS} -k references",
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
]
