"""Hypotheses are read in the data's order, all of them or none."""

import pytest

from srformer_plugin.scoring.files import ScoringError, read_hypotheses, read_lines


def generated(order, kinds="HD", nbest=1):
    blocks = ["2026-01-01 00:00:00 | INFO | fairseq_cli.generate | loading"]
    for index in order:
        blocks.append(f"S-{index}\tsource {index}\nT-{index}\treference {index}")
        for rank in range(nbest):
            blocks += [f"{kind}-{index}\t-{rank}.5e-05\t{kind} {index} rank {rank}" for kind in kinds]
            blocks.append(f"P-{index}\t-0.1 -0.2")
    return "\n".join(blocks) + "\nGenerate test with beam=2: ROUGE-1 = 0.00\n"


@pytest.fixture
def write(tmp_path):
    def write(text):
        path = tmp_path / "file"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def test_generated_hypotheses_come_in_the_order_of_the_data(write):
    assert read_hypotheses(write(generated([2, 0, 1])), 3) == [f"D {index} rank 0" for index in range(3)]


def test_the_first_of_nbest_is_the_hypothesis(write):
    assert read_hypotheses(write(generated([1, 0], nbest=3)), 2) == ["D 0 rank 0", "D 1 rank 0"]


def test_without_detokenised_lines_those_of_the_model_count(write):
    assert read_hypotheses(write(generated([1, 0], kinds="H")), 2) == ["H 0 rank 0", "H 1 rank 0"]


def test_an_empty_hypothesis_is_one(write):
    assert read_hypotheses(write("D-1\t-0.1\t\nD-0\t-inf\ttext\n"), 2) == ["text", ""]


@pytest.mark.parametrize(
    ("order", "count", "message"),
    [
        ([0, 2], 3, "no hypothesis for sentence 1 of 3"),
        ([3], 5, r"no hypothesis for sentence 0 \(and 3 more\) of 5"),
        ([0, 1, 7], 2, "a hypothesis for sentence 7, but there are 2 references"),
        ([0, 1, 0], 2, "sentence 0 twice"),
    ],
)
def test_a_missing_unknown_or_doubled_sentence_is_named(write, order, count, message):
    with pytest.raises(ScoringError, match=message):
        read_hypotheses(write(generated(order)), count)


def test_line_files_are_taken_line_by_line(write):
    # blank lines are hypotheses, and only a line feed ends a line
    assert read_hypotheses(write("one\r\n\ntwo\u2028\x85three\n\n"), 4) == ["one", "", "two\u2028\x85three", ""]
    assert read_lines(write("\ufeffone\ntwo")) == ["one", "two"]


@pytest.mark.parametrize(
    ("content", "message"),
    [("one\n", "has 1 lines, but there are 2"), ("", "is empty"), ("\n\n", "is empty"), (b"\xff\n", "UTF-8")],
)
def test_unfit_files_are_refused(write, content, message):
    with pytest.raises(ScoringError, match=message):
        read_hypotheses(write(content), 2)


def test_an_absent_file_is_refused(tmp_path):
    with pytest.raises(ScoringError, match="cannot read .*nowhere"):
        read_lines(tmp_path / "nowhere")
