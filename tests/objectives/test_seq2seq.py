"""Laws of pairs of texts: each closed, the target shifted, what does not fit cut, and padding not seen."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from fmjax.architecture import TransformerConfig
from fmjax.laws import Wrong
from fmjax.models import Model
from fmjax.objectives import SequenceToSequence
from fmjax.step import eval_step, place
from tests.objectives import tasks
from tests.objectives.examples import END, SPECIAL, keeps_its_promise, text, vocabulary

PAD = SPECIAL["pad"]
OBJECTIVE = SequenceToSequence(source_length=6)


def test_texts_are_closed_and_the_target_is_shifted():
  record = dict(source=np.array([220, 221], np.int32), target=np.array([230, 231], np.int32))
  example = keeps_its_promise(OBJECTIVE, record, 4)
  np.testing.assert_array_equal(example["source_tokens"], [220, 221, END, PAD, PAD, PAD])
  np.testing.assert_array_equal(example["source_segments"], [1, 1, 1, 0, 0, 0])
  np.testing.assert_array_equal(example["tokens"], [PAD, 230, 231, PAD])
  np.testing.assert_array_equal(example["targets"], [230, 231, END, PAD])
  np.testing.assert_array_equal(example["weights"], [1, 1, 1, 0])


def test_a_text_that_is_cut_is_closed_too():
  example = keeps_its_promise(OBJECTIVE, dict(source=text(6), target=text(9)), 4)
  np.testing.assert_array_equal(example["source_tokens"], [*text(5), END])
  np.testing.assert_array_equal(example["targets"], [*text(3), END])
  assert example["weights"].all()


def test_only_a_pair_without_any_text_weighs_nothing():
  for source, target, weight in ((3, 0, 1), (0, 2, 3), (0, 0, 0)):
    example = keeps_its_promise(OBJECTIVE, dict(source=text(source), target=text(target)), 4)
    assert example["weights"].sum() == weight and example["source_segments"].sum() == source + 1


def test_how_long_texts_are():
  assert SequenceToSequence().sizes(9) == (9, 9) and OBJECTIVE.sizes(9) == (6, 9)
  kind, table = dict(kind="encoder_decoder"), dict(max_positions=5)
  assert not list(SequenceToSequence().model_laws(TransformerConfig(**kind, **table)))
  assert [key for key, *_ in OBJECTIVE.model_laws(TransformerConfig(**kind, **table))] == ["max_positions"]
  assert not list(OBJECTIVE.model_laws(TransformerConfig(**kind, positions="relative")))
  assert [key for key, *_ in OBJECTIVE.model_laws(TransformerConfig(max_positions=8))] == ["kind"]
  with pytest.raises(Wrong):
    SequenceToSequence(source_length=0)


def test_bart_frames_both_texts_and_starts_from_the_end():
  """As transformers' `shift_tokens_right` of BART's labels, whose texts its tokenizer frames."""
  objective, made = SequenceToSequence(framing="bart", source_length=6), tasks.tokenizer("roberta")
  (row,) = tasks.read(objective, [("hello the king", "hello")], 8, "roberta")
  batch = {name: x[0].tolist() for name, x in tasks.batch_of(objective, [row], 8, "roberta").items()}
  source, target = (made(text)["input_ids"][0].tolist() for text in ("hello the king", "hello"))
  bos, end, pad = (made.special[name] for name in ("bos", "eos", "pad"))
  assert source[0] == target[0] == bos and source[-1] == target[-1] == end == made.end
  kept = [*source[:-1][:5], end]
  assert batch["source_tokens"] == kept + [pad] * (6 - len(kept)) and batch["source_segments"] == [1] * len(kept) + [
    0
  ] * (6 - len(kept))
  assert batch["targets"] == target + [pad] * (8 - len(target))
  assert batch["tokens"] == [end, *target[:-1]] + [pad] * (8 - len(target))
  assert batch["weights"] == [1] * len(target) + [0] * (8 - len(target))
  known = made.vocabulary(objective.needs(8))
  assert objective.prompt(row, known, 8).tolist() == kept and objective.start(known) == end
  sizes = {name: len(x) for name, x in row.items()}
  assert dataclasses.replace(objective, source_length=None).extent(sizes) == len(source)
  told = objective.answers([row], dict(tokens=np.array([target])), made)
  assert told == [dict(predicted="hello", expected="hello")]


def test_padding_and_pairs_without_text_change_no_loss(on):
  model = Model(TransformerConfig(kind="encoder_decoder", V=5000, D=16, L=1, N=2, F=16, max_positions=16))
  texts = [dict(source=text(n, n), target=text(n + 1, n + 9)) for n in (2, 5)]
  nothing = dict(source=text(0), target=text(0))

  def sums(records, source_length, length):
    objective = SequenceToSequence(source_length=source_length)
    rows = [objective.transform(one, None, vocabulary=vocabulary(), length=length) for one in records]
    batch = place({name: np.stack([row[name] for row in rows]) for name in rows[0]})
    return jax.device_get(jax.jit(functools.partial(eval_step, model=model, objective=objective))(params, batch))

  with on():
    params = jax.jit(model.init)(jax.random.key(0))
    tight, wide = sums(texts, 6, 7), sums([*texts, nothing], 13, 11)
  assert tight["weight"] == wide["weight"] == 11
  np.testing.assert_allclose(wide["loss"], tight["loss"], rtol=1e-5)


def test_a_prefix_stands_before_each_source():
  """Text of one string, so that the tokens at the seam are those of the whole."""
  objective, made = SequenceToSequence(prefix="translate: ", source_length=12), tasks.tokenizer("t5")
  (row,) = tasks.read(objective, [("the king", "hello")], 16, "t5")
  assert row["source"].tolist() == made.encode("translate: the king") and row["target"].tolist() == made.encode(
    "hello"
  )
  batch = tasks.batch_of(objective, [row], 16, "t5")
  assert batch["source_tokens"][0].tolist()[: len(row["source"]) + 1] == [*row["source"], made.end][:12]
  assert "'source' holds no text" in str(tasks.refused(objective, (None, "x"), name="t5"))


def test_the_extent_is_the_length_that_cuts_nothing():
  sizes = dict(source=9, target=5)
  assert SequenceToSequence().extent(sizes) == 10 and SequenceToSequence(source_length=4).extent(sizes) == 6


def test_a_pair_with_an_empty_text_is_left_out():
  (row,) = tasks.read(OBJECTIVE, [("", "hello"), ("the king", ""), ("the king", "hello")], 16, "t5")
  assert row["target"].tolist() == tasks.tokenizer("t5").encode("hello")


def test_answers_end_where_the_text_does():
  made = tasks.tokenizer("t5")
  (row,) = tasks.read(OBJECTIVE, [("the king", "hello")], 16, "t5")
  tokens = np.array([made.encode("hello the") + [made.end] + made.encode("king")])
  assert OBJECTIVE.answers([row], dict(tokens=tokens), made) == [dict(predicted="hello the", expected="hello")]
  prompt = SequenceToSequence(source_length=3).prompt(row, made.vocabulary(("pad",)), 8)
  assert prompt.tolist() == [*row["source"][:2], made.end]


@pytest.mark.parametrize("target", ["a < b", "ein  Haus ", "\u4e2d\n\u6587"])
def test_an_answer_is_held_against_the_text_and_not_against_what_the_tokenizer_kept(target):
  made = tasks.tokenizer("t5")
  assert made.decode(made.encode(target)) != target  # T5's pieces cannot say it
  (row,) = tasks.read(OBJECTIVE, [("the king", target)], 64, "t5")
  (answer,) = OBJECTIVE.answers([row], dict(tokens=row["target"][None]), made)
  assert answer == dict(predicted=made.decode(made.encode(target)), expected=target)
