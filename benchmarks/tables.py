"""The table of every benchmark whose rows are lines, made of the rows of its JSON file."""

from benchmarks.markdown import number, size, table
from benchmarks.ratios import add_ratio_to_full, ratio


def training_updates(rows):
    """Milliseconds per update and the losses, a line per model and precision."""
    case, first = rows[0]["case"], rows[0]
    return table(
        "| precision | model | ms per update | stock time / ours | loss at 10 and at the last update |",
        (
            f"| {row['case']['precision']} | {row['case']['model']} | {row['ours']:.0f} | {ratio(row):.2f} "
            f"| {row['run']['first_loss']:.2f} -> {row['run']['last_loss']:.2f} |"
            for row in rows
        ),
        f"{case['updates']} updates of {case['batch']} x {case['source']} source tokens; median after the first 50",
        first,
        f"torch {first['torch']}",
    )


def distributed(rows):
    """Articles a second and efficiency, a line per model, source and number of processes."""
    case, first = rows[0]["case"], rows[0]
    settings = f"{case['precision']}, {case['ddp_backend']}, {case['optimizer']}"
    if case["zero_sharding"] != "none":
        settings += f", --zero-sharding {case['zero_sharding']}"
    return table(
        "| model | N | processes | articles/s | times one process | efficiency | same articles | all-reduce, ms "
        "| of MiB | losses within | GiB free |",
        (
            f"| {row['case']['arch']} | {row['case']['source']:,} | {row['case']['processes']} | {row['ours']:,.2f} "
            f"| {ratio(row):.2f} | {row['efficiency']:.1%} | {row['efficiency_same_articles']:.1%} "
            f"| {number(row['all_reduce_ms'], '.2f')} | {number(row['all_reduce_mib'], ',.1f')} "
            f"| {row['largest_loss_difference']:.3f} | {number(row['gib_free'], '.1f')} |"
            for row in rows
        ),
        f"{case['batch']} articles a process, {case['updates']} updates, {settings}, random weights",
        first,
        f"torch {first['torch']}",
    )


def training_profile(rows):
    """Milliseconds of an update of fairseq-train and of its segments, a line per training and clock."""
    first = rows[0]
    parts = [name for name in first["segments_ms"] if any(row["segments_ms"][name] for row in rows)]
    lines = []
    for row in rows:
        case = row["case"]
        cells = [
            case["system"],
            f"{case['batch']} x {case['source']:,}",
            f"{case['processes']}, {case['ddp_backend']}" if case["ddp_backend"] else "1",
            case["time"],
            number(row["ours"], ".1f"),
            number(row["theirs"], ".1f"),
            number(row["ours"] / row["theirs"], ".2f"),
            *(number(row["segments_ms"][name], ".1f") for name in parts),
            number(row["busy"], ".1f"),
            number(row["nccl"], ".1f"),
            number(row["synchronisations"], ".1f"),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return table(
        "| system | articles x tokens | processes | clock | update, ms | bare step, ms | update / bare |"
        + "".join(f" {name} |" for name in parts)
        + " kernels | NCCL | waits for the device |",
        lines,
        f"{first['case']['precision']}, medians of {first['updates']} updates of real articles",
        first,
        f"torch {first['torch']}",
    )


def decoding(rows):
    """Tokens a second and memory, a line per batch shape and system."""
    case, first = rows[0]["case"], rows[0]
    return table(
        "| sentences x source | system | tokens/s | ours / stock | ours / full attention, same generator | peak MiB |",
        (
            f"| {row['case']['batch']} x {row['case']['source']} | {row['case']['system']} | {row['ours']:,.0f} "
            f"| {number(ratio(row), '.1f' if row['peak_mib'] else '.2f')} "
            f"| {number(row['ratio_full'], '.2f')} | {number(row['peak_mib'], ',')} |"
            for row in add_ratio_to_full(rows)
        ),
        f"Beam {case['beam']}, {case['tokens']} tokens, {case['dtype']}, random weights",
        first,
        f"torch {first['torch']}",
    )


def hypotheses(rows):
    """How often both generators find the same, and their speeds, a line per precision and beam."""
    case, first = rows[0]["case"], rows[0]
    return table(
        "| dtype | beam | equal | stock equal to itself in float32 | largest difference of a token's score "
        "| --fast-generate, tokens/s | stock, tokens/s | ratio |",
        (
            f"| {row['case']['dtype']} | {row['case']['beam']} | {row['equal']:.1%} "
            f"| {row['stock_equal_to_float32']:.1%} | {row['largest_score_difference']:.1e} "
            f"| {row['ours']:,.0f} | {row['theirs']:,.0f} | {ratio(row):.1f} |"
            for row in rows
        ),
        f"{case['sources']} sources, length penalty {case['len_penalty']:g}, {case['min_len']} to {case['max_len']} "
        f"tokens, no {case['no_repeat_ngram_size']}-gram twice",
        first,
        f"torch {first['torch']}",
    )


def bpe_encoding(rows):
    """Pairs a second of two encoders that give the same numbers."""
    first = rows[0]
    return table(
        "| pairs | MB | data_prep.encode, pairs/s | fairseq's encoder, pairs/s | ratio |",
        (
            f"| {row['case']['pairs']:,} | {row['case']['megabytes']:.0f} | {row['ours']:,.0f} "
            f"| {row['theirs']:,.0f} | {ratio(row):.1f} |"
            for row in rows
        ),
        f"Articles with their summaries, whole programs, {first['case']['workers']} processes; the outputs are equal",
        first,
        f"tiktoken {first['tiktoken']}",
    )


def rouge_scoring(rows):
    """Seconds for a test set, a line for each number of processes."""
    return table(
        "| processes | srformer_plugin.scoring, s | rouge-score loop, s | ratio |",
        (f"| {row['case']['workers']} | {row['ours']:.1f} | {row['theirs']:.1f} | {ratio(row):.1f} |" for row in rows),
        f"ROUGE-1/2/L/Lsum of {rows[0]['case']['pairs']:,} pairs, whole programs; the scores are equal",
        rows[0],
    )


def attention_core(rows):
    """Milliseconds of one layer's attention, forward and backward, a line per size, peer and way of launching."""
    first = rows[0]
    return table(
        "| B x T x N | | SRformer (triton), ms | peer | peer, ms | peer / ours |",
        (
            f"| {size(row)} | {'CUDA graph' if row['case']['mode'].startswith('graph') else 'eager'} "
            f"| {number(row['ours'], '.3f')} | {row['peer']} | {number(row['theirs'], '.3f')} "
            f"| {number(ratio(row), '.2f')} |"
            for row in rows
        ),
        f"Forward and backward of one layer's attention core, {first['case']['dtype']}, segments of "
        f"{first['case']['segment']}",
        first,
        f"torch {first['torch']}",
    )


# Modes of the two benchmarks of segments chosen by content, in words
MODES = {
    "both_ms": "training, eager",
    "graph_both_ms": "training, CUDA graph",
    "graph_ms": "one decoding step, CUDA graph",
    "forward": "forward",
    "both": "training",
    "step": "one decoding step",
}


def attention_content(rows):
    """Milliseconds of attention to segments chosen by content, a line per size and way of running it."""
    lines, first = [], rows[0]
    for row in rows:
        case = row["case"]
        targets = f"{case['hypotheses']} hypotheses" if "hypotheses" in case else case["targets"]
        lines.append(
            f"| {case['batch']} x {targets} x {case['source']} | {MODES[case['mode']]} | {number(row['ours'], '.3f')} "
            f"| {row['peer']} | {number(row['theirs'], '.3f')} | {number(ratio(row), '.2f')} |"
        )
    return table(
        "| B x T x N | | content, ms | peer | peer, ms | peer / ours |",
        lines,
        f"{first['case']['chosen']} segments of {first['case']['segment']} per query and head, "
        f"{first['case']['dtype']}",
        first,
        f"torch {first['torch']}",
    )


def vocabulary_loss(rows):
    """Milliseconds and memory of projection and loss, a line per size, precision and system."""
    first, lines = rows[0], []
    for row in rows:
        case = row["case"]
        shape = " x ".join(f"{case[name]:,}" for name in ("rows", "width", "classes"))
        peak = number(row["peak_mib"], ",") if row["ours"] else row["not_timed"]
        lines.append(
            f"| {shape} | {case['precision']} | {case['system']} | {number(row['ours'], ',.2f')} "
            f"| {number(ratio(row), '.2f')} | {peak} |"
        )
    return table(
        "| N x D x V | precision | system | ms | fairseq / this | peak MiB |",
        lines,
        "forward and backward, medians",
        first,
        f"torch {first['torch']}",
    )


def host_operations(rows):
    """What a pass of a training step asks of the host, a line per system and pass."""
    first = rows[0]
    return table(
        "| system | pass | operations | of these launches | waits | autograd's nodes | microseconds | stock / ours |",
        (
            f"| {row['case']['system']} | {row['case']['pass']} | {row['operations']:,} | {row['launches']:,} "
            f"| {row['waits']} | {number(row['nodes'], ',')} | {row['ours']:,.0f} | {ratio(row):,.2f} |"
            for row in rows
        ),
        f"{first['case']['layers']} layers, 32 wide, 2 x 4 target and 32 source tokens; the processor's time, medians",
        first,
        f"torch {first['torch']}",
    )


def training_step(rows):
    """Milliseconds and memory of a training step, a line per batch shape, system and clock; where it goes, if known."""
    first = rows[0]
    parts = list(dict.fromkeys(part for row in rows for part in row["ranges_ms"] or {}))
    lines = []
    for row in rows:
        shares = row["ranges_ms"] or {}
        cells = [
            size(row),
            row["case"]["system"],
            row["case"]["time"],
            number(row["ours"], ".1f"),
            number(ratio(row), ".2f"),
            number(row["peak_mib"], ",") if row["ours"] else row["not_timed"],
            *(number(shares.get(part), ".1f") for part in parts),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return table(
        "| B x T x N | system | time | ms per step | stock / ours | peak MiB |" + "".join(f" {x}, ms |" for x in parts),
        lines,
        f"{first['case']['precision']}, random weights; `wall` by the clock, `device` what the device is busy",
        first,
        f"torch {first['torch']}",
    )


def operations(rows):
    """Operations of the attention core beside full attention's, a line per size and segment size."""
    lines = []
    for row in rows:
        case = row["case"]
        clip = f"{case['clip']:g}" if case["clip"] else "none"
        lines.append(
            f"| {case['targets']} | {case['source']:,} | {case['segment']} | {clip} | {row['ours'] / 1e6:,.0f} "
            f"| {row['theirs'] / 1e6:,.0f} | {ratio(row):.2f} | {row['saved_percent']:.1f}% "
            f"| {row['saved_percent_with_projections']:.1f}% |"
        )
    return table(
        "| T | N | segment | clip | SRformer, million | full attention, million | full / SRformer | fewer "
        "| fewer with the projections |",
        lines,
        f"Forward, one sentence, {rows[0]['case']['heads']} heads of {rows[0]['case']['head_dim']}; counted, not timed",
        rows[0],
        f"torch {rows[0]['torch']}",
    )
